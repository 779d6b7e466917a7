//! Who may vouch for the server: the authorities of the configuration, those that the environment names, or the system's.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::config::{TrustedAuthorities, read_authorities};

const NAMED_REMEDY: &str = "correct it, or set upstream.tls.ca_file";

/// Says why there is nobody who could vouch for the server, and what to do.
#[derive(Debug)]
pub struct NoAuthorities {
    /// Says what is wrong.
    pub what: String,
    /// Says what to do about it.
    pub remedy: &'static str,
}

impl fmt::Display for NoAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

impl From<NoAuthorities> for String {
    fn from(untrusting: NoAuthorities) -> Self {
        untrusting.to_string()
    }
}

/// Returns who may vouch for the server, and in words where they come from.
pub(super) fn trusted(
    authorities: &TrustedAuthorities,
) -> Result<(RootCertStore, String), NoAuthorities> {
    let mut roots = RootCertStore::empty();
    match authorities {
        TrustedAuthorities::Given(list) => {
            roots.add_parsable_certificates(list.iter().cloned());
            let trust = format!("the {} in upstream.tls.ca_file", list.len());
            Ok((roots, trust))
        }
        TrustedAuthorities::System => {
            let named = NamedPlaces::by_the_environment();
            let found = match named.is_any() {
                true => named.read(),
                false => of_the_system(),
            };
            if let Some(unfit) = found.unfit {
                return Err(unfit);
            }
            let (added, _) = roots.add_parsable_certificates(found.certificates);
            if added > 0 {
                for wrong in &found.wrong {
                    match named.is_any() {
                        true => tracing::warn!(
                            "some of the authorities that {} names are left out: {wrong}",
                            named.shown()
                        ),
                        false => tracing::debug!("the system's certificates: {wrong}"),
                    }
                }
                return Ok((roots, format!("the {added} authorities of this system")));
            }
            if let Some(refusal) = none_found(&found.wrong, &named) {
                return Err(refusal);
            }
            // An empty container image has none.
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            let trust = format!(
                "the {} authorities built in, since this system has none",
                roots.len()
            );
            Ok((roots, trust))
        }
    }
}

/// Holds certificates, and why others could not be read.
#[derive(Default)]
struct FoundAuthorities {
    certificates: Vec<CertificateDer<'static>>,
    wrong: Vec<String>,
    /// Is set where what is named as a file can never be read as one, whatever else is found.
    unfit: Option<NoAuthorities>,
}

impl FoundAuthorities {
    /// # Errors
    /// Why the file cannot be read.
    fn add(&mut self, path: &Path) -> Result<(), String> {
        for one in CertificateDer::pem_slice_iter(&read_authorities(path)?) {
            match one {
                Ok(certificate) => self.certificates.push(certificate),
                Err(error) => self.wrong.push(format!("{}: {error}", path.display())),
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path) {
        let Err(why) = self.add(path) else {
            return;
        };
        // A missing file, or one without the right to read it, is made good by a folder.
        if access(path, Access::READ_OK).is_ok() {
            self.unfit = Some(NoAuthorities {
                what: format!("SSL_CERT_FILE={path:?} cannot be read: {why}"),
                remedy: NAMED_REMEDY,
            });
        }
        self.wrong.push(format!("{}: {why}", path.display()));
    }

    /// Adds those of all files in a folder, each once: most have links by other names beside them.
    fn add_folder(&mut self, folder: &Path, seen: &mut HashSet<(u64, u64)>) {
        let listed = std::fs::read_dir(folder);
        let listed = listed.and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return self.wrong.push(format!("{}: {error}", folder.display())),
        };
        for entry in listed {
            let path = entry.path();
            // A link to nothing is none.
            let about = std::fs::metadata(&path);
            let is_new =
                about.is_ok_and(|about| about.is_file() && seen.insert((about.dev(), about.ino())));
            if is_new && let Err(why) = self.add(&path) {
                self.wrong.push(format!("{}: {why}", path.display()));
            }
        }
    }
}

fn of_the_system() -> FoundAuthorities {
    let found = rustls_native_certs::load_native_certs();
    FoundAuthorities {
        certificates: found.certs,
        wrong: found.errors.iter().map(ToString::to_string).collect(),
        unfit: None,
    }
}

/// Holds where the environment says that authorities are.
#[derive(Debug, Default)]
struct NamedPlaces {
    file: Option<OsString>,
    folders: Option<OsString>,
}

impl NamedPlaces {
    fn by_the_environment() -> Self {
        Self {
            file: std::env::var_os("SSL_CERT_FILE"),
            folders: std::env::var_os("SSL_CERT_DIR"),
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        let folders = self.folders.iter().flat_map(std::env::split_paths);
        let folders = folders.filter(|folder| !folder.as_os_str().is_empty());
        folders.collect()
    }

    fn is_any(&self) -> bool {
        self.file.is_some() || !self.folders().is_empty()
    }

    /// Reads them as every other file is that somebody names: what has no end, or is too long, holds nothing up.
    fn read(&self) -> FoundAuthorities {
        let (mut found, mut seen) = (FoundAuthorities::default(), HashSet::new());
        if let Some(file) = &self.file {
            let file = Path::new(file);
            if let Ok(about) = std::fs::metadata(file) {
                seen.insert((about.dev(), about.ino()));
            }
            found.add_file(file);
        }
        for folder in self.folders() {
            found.add_folder(&folder, &mut seen);
        }
        found
            .certificates
            .sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
        found.certificates.dedup();
        found
    }

    /// Shows the variables as far as they are set.
    fn shown(&self) -> String {
        let file = self
            .file
            .iter()
            .map(|path| format!("SSL_CERT_FILE={path:?}"));
        let folders = self.folders.iter();
        let folders = folders.map(|paths| format!("SSL_CERT_DIR={paths:?}"));
        file.chain(folders).collect::<Vec<_>>().join(", ")
    }
}

/// Says why no authority was found where some should be: whoever named a place trusts those there and no others.
/// `None`: the system has none, and says of none.
fn none_found(wrong: &[String], named: &NamedPlaces) -> Option<NoAuthorities> {
    let place = match named.is_any() {
        false if wrong.is_empty() => return None,
        false => "this system's authorities cannot be read".to_owned(),
        true => format!("there is no authority to be read from {}", named.shown()),
    };
    let why = wrong
        .first()
        .map_or_else(String::new, |why| format!(": {why}"));
    Some(NoAuthorities {
        what: place + &why,
        remedy: match named.is_any() {
            false => "set upstream.tls.ca_file",
            true => NAMED_REMEDY,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> String {
        let own = rcgen::generate_simple_self_signed(vec![name.to_owned()]);
        own.expect("a certificate").cert.pem()
    }

    #[test]
    fn files_and_folders_are_read_each_certificate_once_and_what_is_wrong_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        let (first, second) = (pem("first"), pem("second"));
        std::fs::write(at("both.pem"), format!("{first}{second}")).expect("written");
        std::fs::create_dir(at("folder")).expect("made");
        std::fs::write(at("folder/second.pem"), &second).expect("written");
        std::fs::write(at("folder/third.pem"), pem("third")).expect("written");
        std::os::unix::fs::symlink(at("folder/third.pem"), at("folder/0.0")).expect("linked");
        std::os::unix::fs::symlink(at("nothing"), at("folder/1.0")).expect("linked");
        let sparse = std::fs::File::create(at("folder/long")).expect("a file");
        sparse.set_len(3 << 30).expect("sparse");
        let named = NamedPlaces {
            file: Some(at("both.pem").into()),
            folders: Some(at("folder").into()),
        };
        let found = named.read();
        assert_eq!(found.certificates.len(), 3);
        assert_eq!(found.wrong.len(), 1, "{:?}", found.wrong);
        assert!(found.wrong[0].contains("longer than"), "{:?}", found.wrong);
        assert!(found.unfit.is_none());
        // What somebody names as the file is that, whatever a folder has.
        let unfit = NamedPlaces {
            file: Some(at("folder/long").into()),
            ..named
        };
        let told = unfit.read().unfit.expect("a refusal").to_string();
        assert!(
            told.contains("cannot be read: longer than 16 MiB; correct it"),
            "{told}"
        );
    }

    #[test]
    fn whoever_named_a_place_is_told_what_is_wrong_with_it() {
        let named = NamedPlaces {
            file: Some("/nonexistent".into()),
            folders: None,
        };
        let found = named.read();
        let told = none_found(&found.wrong, &named).expect("a refusal");
        let told = told.to_string();
        assert!(
            told.starts_with(
                "there is no authority to be read from SSL_CERT_FILE=\"/nonexistent\": /nonexistent: No such file"
            ) && told.ends_with("; correct it, or set upstream.tls.ca_file"),
            "{told}"
        );
        assert!(
            none_found(&[], &NamedPlaces::default()).is_none(),
            "it has none"
        );
    }
}
