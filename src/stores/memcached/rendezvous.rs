//! Which server has which key, by rendezvous hashing: each key gives every server a score, and
//! belongs to the highest. The loss or the addition of a server moves its own share only.
//!
//! It is spelled out here because every process must agree on it, whatever it was compiled with.

use sha2::{Digest, Sha256};

use crate::id::SessionIdHash;

/// What a server's name brings to every score.
pub(super) fn weight(name: &str) -> u64 {
    first_number(&Sha256::digest(name))
}

pub(super) fn score(weight: u64, id_hash: &SessionIdHash) -> u64 {
    mix(first_number(id_hash.as_bytes()) ^ weight)
}

pub(super) fn first_number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The end of SplitMix64, which spreads a change of one bit over all.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(servers: &[&str]) -> Vec<usize> {
        let id_hash = |n: u32| SessionIdHash::from_bytes(Sha256::digest(n.to_be_bytes()).into());
        let best = |id_hash| {
            let score = |place: &usize| score(weight(servers[*place]), &id_hash);
            (0..servers.len()).max_by_key(score).unwrap()
        };
        (0..3000).map(|n| best(id_hash(n))).collect()
    }

    #[test]
    fn a_lost_server_loses_only_its_share() {
        let all = shards(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        let fewer = shards(&["127.0.0.1:1", "127.0.0.1:2"]);
        for server in 0..3 {
            let shard = all.iter().filter(|place| **place == server).count();
            assert!((800..1200).contains(&shard), "server {server} has {shard} of 3000");
        }
        for (before, after) in all.iter().zip(&fewer) {
            assert!(*before == 2 || before == after);
        }
    }

    #[test]
    fn the_shares_stay_what_they_are() {
        // Another distribution would lose sessions at an update.
        let all = shards(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        assert_eq!(&all[..16], &[0, 0, 0, 0, 2, 0, 1, 0, 0, 2, 0, 1, 1, 0, 2, 0]);
    }
}
