//! What is fuzzed, one function for each target: `cargo fuzz` calls it with bytes it finds, and a property test calls it with
//! bytes at random in every run of the tests.

pub(crate) mod configuration;
pub(crate) mod fences;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod server;

/// Bytes put together from fragments: a byte is a fragment, if there is one of that number, or itself. An even first byte takes the
/// rest as it is.
pub(crate) fn assemble(data: &[u8], fragments: &[&[u8]]) -> Vec<u8> {
    let Some((first, rest)) = data.split_first() else {
        return Vec::new();
    };
    if first.is_multiple_of(2) {
        return rest.to_vec();
    }
    let pieces = rest.iter().map(|byte| {
        let fragment = fragments.get(usize::from(*byte));
        fragment.copied().unwrap_or(std::slice::from_ref(byte))
    });
    pieces.flatten().copied().collect()
}
