//! Maps id hashes to servers by rendezvous hashing: each id hash has a score for every server and
//! belongs to the highest. Removing or adding a server moves only that server's ids.
//!
//! The hash function is written out here, because all processes must agree on it, even if they are
//! compiled by different versions of Rust.

use sha2::{Digest, Sha256};

use crate::id::SessionIdHash;

/// Returns what a server's name contributes to its scores.
pub(super) fn server_seed(name: &str) -> u64 {
    first_number(&Sha256::digest(name))
}

/// Returns the score of the server with this seed for an id hash.
pub(super) fn score(server_seed: u64, id_hash: &SessionIdHash) -> u64 {
    mix(first_number(id_hash.as_bytes()) ^ server_seed)
}

fn first_number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Applies the output function of SplitMix64, which spreads a change of one bit over all bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers_of_ids(servers: &[&str]) -> Vec<usize> {
        let id_hash = |n: u32| SessionIdHash::from_bytes(Sha256::digest(n.to_be_bytes()).into());
        let best = |id_hash| {
            let score = |index: &usize| score(server_seed(servers[*index]), &id_hash);
            (0..servers.len()).max_by_key(score).unwrap()
        };
        (0..3000).map(|n| best(id_hash(n))).collect()
    }

    #[test]
    fn removing_a_server_moves_only_its_ids() {
        let all = servers_of_ids(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        let fewer = servers_of_ids(&["127.0.0.1:1", "127.0.0.1:2"]);
        for server in 0..3 {
            let count = all.iter().filter(|index| **index == server).count();
            assert!((800..1200).contains(&count), "server {server} has {count} of 3000");
        }
        for (before, after) in all.iter().zip(&fewer) {
            assert!(*before == 2 || before == after);
        }
    }

    #[test]
    fn the_mapping_is_stable() {
        // Another mapping would lose sessions at an update.
        let all = servers_of_ids(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        assert_eq!(&all[..16], &[0, 0, 0, 0, 2, 0, 1, 0, 0, 2, 0, 1, 1, 0, 2, 0]);
    }
}
