//! Memory of the compiled world, of the replica and of the table, per host. Heap bytes in use, by a counting allocator.

use allocation_counter::measure as count;
use sluicegate_benches::{SIZES, world};
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::table::{RouteTable, Unbound};
use sluicegate_snapshot::{Delta, Settings, World};

pub fn measure() {
    println!("| hosts | world, bytes/host | replica over it | table over both | all, MiB |");
    println!("|---|---|---|---|---|");
    for size in SIZES {
        let (mut made, mut replica, mut table) = (None, Replica::default(), RouteTable::<Unbound>::default());
        let in_world = count(|| {
            let mut compiled = World::new(Settings::default());
            compiled.apply(world(size));
            made = Some(compiled);
        });
        let full = Delta::full(made.as_ref().unwrap().snapshot());
        let mut change = None;
        let in_replica = count(|| change = Some(replica.apply(&full)));
        let change = change.unwrap();
        let in_table = count(|| table = table.apply(&change, &mut Unbound));
        // The change that the replica returned is dropped after this.
        let in_change = count(|| drop(change));
        let bytes = |info: allocation_counter::AllocationInfo| info.bytes_current;
        let (in_world, in_table) = (bytes(in_world), bytes(in_table));
        let in_replica = bytes(in_replica) + bytes(in_change);
        let per_host = |bytes: i64| bytes / size as i64;
        let all = (in_world + in_replica + in_table) as f64 / (1024.0 * 1024.0);
        println!("| {size} | {} | {} | {} | {all:.1} |", per_host(in_world), per_host(in_replica), per_host(in_table));
    }
}
