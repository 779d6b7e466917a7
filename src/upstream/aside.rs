//! What may take long, as files on a device that does not answer do, done where it holds up nobody.

use tokio::sync::oneshot;

/// Does `work` on a thread of its own.
///
/// # Errors
/// There is no thread for it, or it failed in respool itself.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (tell, told) = oneshot::channel();
    // Who asked may have gone.
    let work = move || drop(tell.send(work()));
    let thread = std::thread::Builder::new().name("secrets".to_owned());
    thread
        .spawn(work)
        .map_err(|error| format!("no thread to read it: {error}"))?;
    told.await
        .map_err(|_| "reading it failed in respool itself".to_owned())
}
