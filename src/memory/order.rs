//! Who goes when there is no room.

/// A client and what is held for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryHolder {
    /// Identifies the client, as CLIENT ID does.
    pub id: u64,
    /// Counts its replies, messages and requests, as they are held.
    pub bytes: u64,
}

/// Returns whom to close so that `excess` bytes are given back: the largest holders, and no more of them than it takes. Of equal ones the
/// youngest goes.
pub(super) fn largest_first(mut holders: Vec<MemoryHolder>, excess: u64) -> Vec<MemoryHolder> {
    holders.retain(|holder| holder.bytes > 0);
    holders.sort_unstable_by_key(|holder| (holder.bytes, holder.id));
    let mut back = 0;
    let mut gone = Vec::new();
    while back < excess
        && let Some(holder) = holders.pop()
    {
        back += holder.bytes;
        gone.push(holder);
    }
    gone
}

/// Returns who goes so that `excess` bytes are given back: those first who hold more than `little`, the largest first. Who holds less goes
/// only for what all of those hold together beyond `most`: one of them gives hardly anything back, and may be there for nothing but a name.
pub fn who_goes(
    holders: Vec<MemoryHolder>,
    excess: u64,
    little: u64,
    most: u64,
) -> Vec<MemoryHolder> {
    let (large, small): (Vec<_>, Vec<_>) = holders
        .into_iter()
        .partition(|holder| holder.bytes > little);
    let sum = |holders: &[MemoryHolder]| holders.iter().map(|holder| holder.bytes).sum::<u64>();
    let mut gone = largest_first(large, excess);
    let left = excess.saturating_sub(sum(&gone));
    let beyond = sum(&small).saturating_sub(most);
    gone.extend(largest_first(small, left.min(beyond)));
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_largest_go_and_no_more_than_must(
            sizes in prop::collection::vec(0u64..1000, 0..50),
            excess in 0u64..20_000,
        ) {
            let holders: Vec<_> = sizes.iter().enumerate()
                .map(|(id, &bytes)| MemoryHolder { id: id as u64, bytes }).collect();
            let gone = largest_first(holders.clone(), excess);
            let back: u64 = gone.iter().map(|holder| holder.bytes).sum();
            let least = gone.iter().map(|holder| holder.bytes).min().unwrap_or(u64::MAX);
            let stays = |holder: &&MemoryHolder| !gone.contains(holder);
            prop_assert!(holders.iter().filter(stays).all(|holder| holder.bytes <= least));
            prop_assert!(back >= excess || holders.iter().filter(stays).all(|holder| holder.bytes == 0));
            if let Some(last) = gone.last() {
                prop_assert!(back - last.bytes < excess);
            }
        }

        #[test]
        fn who_holds_little_goes_last_and_only_where_many_do(
            sizes in prop::collection::vec(0u64..100, 0..50),
            excess in 0u64..5000,
            most in 0u64..1000,
        ) {
            const LITTLE: u64 = 50;
            let holders: Vec<_> = sizes.iter().enumerate()
                .map(|(id, &bytes)| MemoryHolder { id: id as u64, bytes }).collect();
            let gone = who_goes(holders.clone(), excess, LITTLE, most);
            let sum = |holders: &[MemoryHolder]| holders.iter().map(|holder| holder.bytes).sum::<u64>();
            let stay: Vec<_> = holders.into_iter().filter(|holder| !gone.contains(holder)).collect();
            let (large, small): (Vec<_>, Vec<_>) = stay.into_iter().partition(|holder| holder.bytes > LITTLE);
            prop_assert!(sum(&gone) >= excess || (large.is_empty() && sum(&small) <= most));
            if gone.iter().any(|holder| holder.bytes <= LITTLE) {
                prop_assert!(large.is_empty() && sum(&small) + LITTLE >= most);
            }
        }
    }
}
