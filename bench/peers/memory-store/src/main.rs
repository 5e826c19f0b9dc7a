//! tower-sessions on its MemoryStore.

#[path = "../../turns.rs"]
mod turns;
#[path = "../../../src/workload.rs"]
mod workload;

use tower_sessions::MemoryStore;

fn main() {
    turns::serve(|_| async { MemoryStore::default() });
}
