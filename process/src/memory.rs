//! How the process uses memory.

/// Has the kernel back memory with small pages only. The allocator (mimalloc) asks for transparent huge pages where the machine gives
/// them on request, and a huge page of which a part is used counts whole: at 5,000 routes a gateway took 75 MiB with them and 48 MiB
/// without (docs/benchmarks.md). Call it before anything is allocated.
///
/// A kernel that refuses changes nothing but that.
pub fn use_small_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
