//! Work that may take long, as reading files on a device that does not answer does, on a thread where it holds up nobody.

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// Does `work` on a thread of its own, whose name it is given. The receiver ends without a value where the work has panicked.
///
/// # Errors
/// The system has no thread for it.
pub(super) fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (tell, told) = oneshot::channel();
    // Who asked may have gone.
    let work = move || drop(tell.send(work()));
    thread::Builder::new().name(name.to_owned()).spawn(work)?;
    Ok(told)
}

/// Reads a secret, or what leads to one, on a thread of its own.
///
/// # Errors
/// There is no thread for it, or it failed in respool itself.
pub(super) async fn read_on_thread<T: Send + 'static>(
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let told =
        on_thread("secrets", read).map_err(|error| format!("no thread to read it: {error}"))?;
    told.await
        .map_err(|_| "reading it failed in respool itself".to_owned())
}
