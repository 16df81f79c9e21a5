//! What libraries in other languages are told, for which there is no safe call: the one module with `unsafe` code.
#![allow(unsafe_code)]

/// What OpenSSL reads the system's authorities from, all at once, whenever a context for clients is made.
const AUTHORITIES: &str = "SSL_CERT_FILE";

/// Has OpenSSL load no bundle of authorities at the start. The engine makes a context for clients in every worker and has the bundle of the
/// system loaded into each, 2.5 MiB a worker with Debian's 145 authorities (docs/benchmarks.md), also where no backend is ever asked with
/// TLS. Where the system has a directory of them with names by hash (Debian, Alpine), they are still found one by one when they are needed.
/// Whoever sets the variable has said what to load, and that stands.
///
/// It does nothing where there is a second thread already: call it at the very start.
pub fn load_no_authorities() {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone && std::env::var_os(AUTHORITIES).is_none() {
        // SAFETY: changing the environment is unsound only while another thread reads or writes it (std::env::set_var); there is
        // no other thread.
        unsafe { std::env::set_var(AUTHORITIES, "/dev/null") };
    }
}

/// Has the allocator (mimalloc) give back to the kernel what has been free for a second. Whoever calls it pays for all threads.
pub(crate) fn give_back_memory() {
    // SAFETY: it takes no pointer and frees nothing that is in use, and any thread may call it at any time; where another allocator is the
    // program's, there is nothing to give back.
    unsafe { libmimalloc_sys::mi_collect(false) };
}
