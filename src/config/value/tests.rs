//! Tests of what values are read as.

use proptest::prelude::*;

use super::*;
use crate::config::address::{address, socket_address};

#[test]
fn durations_need_a_unit_and_an_end() {
    assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
    assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
    assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
    assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
    assert_eq!(duration("0s"), Ok(Duration::ZERO));
    for text in [
        "",
        "5",
        "s",
        "-5s",
        "5 s",
        "1.5s",
        "5S",
        "1h30m",
        "5d",
        "9999999h",
        "99999999999999999999s",
    ] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn sizes_have_exact_units() {
    assert_eq!(size("32MiB"), Ok(32 << 20));
    assert_eq!(size("64KiB"), Ok(65_536));
    assert_eq!(size("1GiB"), Ok(1 << 30));
    assert_eq!(size("512MB"), Ok(512_000_000));
    assert_eq!(size("1kB"), size("1KB"));
    assert_eq!(size("17"), Ok(17));
    for text in [
        "",
        "MiB",
        "-1MiB",
        "1 MiB",
        "1.5MiB",
        "1TiB",
        "99999999999GiB",
        "99999999999999999999999",
    ] {
        assert!(size(text).is_err(), "{text}");
    }
    assert_eq!(size("32mib").unwrap_err().remedy, "did you mean \"32MiB\"?");
    assert_eq!(size("32m").unwrap_err().remedy, "did you mean \"32MiB\"?");
}

#[test]
fn networks_are_brought_to_one_form() {
    let read = |text| network(text).map(|net| net.to_string());
    assert_eq!(read("10.1.2.3/8"), Ok("10.0.0.0/8".to_owned()));
    assert_eq!(read("10.1.2.3"), Ok("10.1.2.3/32".to_owned()));
    assert_eq!(read("::1"), Ok("::1/128".to_owned()));
    assert_eq!(read("::ffff:10.1.2.3"), Ok("10.1.2.3/32".to_owned()));
    assert_eq!(read("::ffff:10.0.0.0/104"), Ok("10.0.0.0/8".to_owned()));
    assert!(read("10.0.0.0/33").is_err() && read("localhost").is_err() && read("10.0.*").is_err());
}

#[test]
fn globs_match_whole_texts() {
    let glob = glob("test-*").expect("a glob");
    assert!(glob.matches(b"test-1") && glob.matches(b"test-a/b") && glob.matches(b"test-\xff\n"));
    assert!(!glob.matches(b"my-test-1"));
    assert_eq!(glob.text(), "test-*");
    assert!(super::glob("a[b").is_err() && super::glob("{a,b").is_err());
}

#[test]
fn denied_commands_are_names_subcommands_or_categories() {
    assert_eq!(denied_command("FLUSHALL"), Ok("flushall".to_owned()));
    assert_eq!(denied_command("Config|Set"), Ok("config|set".to_owned()));
    assert_eq!(denied_command("@Dangerous"), Ok("@dangerous".to_owned()));
    assert_eq!(denied_command("ft.search"), Ok("ft.search".to_owned()));
    // Of a module: which commands are in it is for the server to say.
    assert_eq!(denied_command("@Search"), Ok("@search".to_owned()));
    for text in [
        "",
        "config|",
        "|set",
        "a|b|c",
        "config set",
        "-flushall",
        "+@read",
        "@",
        "@two words",
    ] {
        assert!(denied_command(text).is_err(), "{text}");
    }
    assert_eq!(
        denied_command("@dangerus").unwrap_err().remedy,
        "did you mean \"@dangerous\"?"
    );
}

#[test]
fn a_host_name_always_becomes_a_usable_word() {
    assert_eq!(word_of_host("web-1.example.com\n"), "web-1.example.com");
    assert_eq!(word_of_host("a b\tc"), "a-b-c");
    assert_eq!(word_of_host("  "), "respool");
}

proptest! {
    #[test]
    fn durations_come_back(ms in 0..=LONGEST_MS) {
        let wanted = Duration::from_millis(ms);
        prop_assert_eq!(duration(&duration_text(wanted)), Ok(wanted));
    }

    #[test]
    fn sizes_come_back(bytes in any::<u64>(), shift in 0_u32..40) {
        let bytes = bytes >> shift << shift;
        prop_assert_eq!(size(&size_text(bytes)), Ok(bytes));
    }

    #[test]
    fn any_text_is_read_or_refused_on_one_line(text in "\\PC*|[0-9a-zA-Z:./@\\[\\]|\\n]{0,40}") {
        let refusals = [
            duration(&text).err(), size(&text).err(), address(&text).err(), network(&text).err(),
            glob(&text).err(), word(&text).err(), denied_command(&text).err(), socket_address(&text).err(),
        ];
        for refusal in refusals.into_iter().flatten() {
            prop_assert!(!refusal.what.contains('\n') && !refusal.remedy.contains('\n'), "{:?}", refusal);
        }
    }

    #[test]
    fn any_host_name_becomes_a_word(host in "\\PC*") {
        let name = word_of_host(&host);
        prop_assert_eq!(word(&name), Ok(name.clone()));
    }
}
