//! The callbacks of proxy-wasm, each handed to the root or the stream that it is about.
//!
//! Its one rule: a callback about a context that is not there changes nothing and lets the message go on. Some filters of
//! Envoy show a body after its stream has ended, and a panic would take down every request of the worker.
//! It does not know what a callback means.
#![expect(unsafe_code, reason = "the host finds callbacks by their names, and has memory allocated here")]

use std::cell::RefCell;

use crate::VERSION;
use crate::by_id::ById;
use crate::shell::framing::FramedStream;
use crate::shell::host::{self, Level};
use crate::shell::root::Root;
use crate::shell::stream::HttpStream;
use crate::worker::Action;

/// The version, where tools that read modules look for it: in a section of this name.
#[used]
#[unsafe(link_section = "version")]
static VERSION_SECTION: [u8; VERSION.len()] = match VERSION.as_bytes().first_chunk() {
    Some(bytes) => *bytes,
    None => [0; VERSION.len()],
};

/// What the host has created and not deleted.
#[derive(Default)]
struct Contexts {
    roots: ById<Root>,
    streams: ById<HttpStream>,
    /// Those of the plugin that takes frames off.
    framed: ById<FramedStream>,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = RefCell::default();
}

/// Calls the root; what it would have said by default where there is none.
fn with_root<R>(id: u32, default: R, call: impl FnOnce(&mut Root) -> R) -> R {
    with_contexts(|contexts| contexts.roots.get_mut(&id).map(call)).unwrap_or(default)
}

/// Calls the stream; the message goes on where there is none.
fn with_stream(id: u32, call: impl FnOnce(&mut HttpStream) -> Action) -> u32 {
    answer(with_contexts(|contexts| contexts.streams.get_mut(&id).map(call)))
}

/// Calls the stream, of whichever of the two plugins it is.
fn with_body(
    id: u32,
    call: impl FnOnce(&mut HttpStream) -> Action,
    call_framed: impl FnOnce(&mut FramedStream) -> Action,
) -> u32 {
    answer(with_contexts(|contexts| match contexts.streams.get_mut(&id) {
        Some(stream) => Some(call(stream)),
        None => contexts.framed.get_mut(&id).map(call_framed),
    }))
}

fn answer(action: Option<Action>) -> u32 {
    match action {
        Some(Action::Pause) => 1,
        Some(Action::Continue) | None => 0,
    }
}

/// None also where the host calls from within a callback, as it does where the plugin that takes frames off stands in a
/// cluster and shares the filter's VM.
fn with_contexts<R>(call: impl FnOnce(&mut Contexts) -> Option<R>) -> Option<R> {
    CONTEXTS.with(|contexts| call(&mut *contexts.try_borrow_mut().ok()?))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    unsafe extern "C" {
        fn __wasm_call_ctors();
    }
    // SAFETY: the host calls this once, before anything else.
    unsafe { __wasm_call_ctors() };
}

/// Memory that the host fills and that `host::take` frees.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    Box::into_raw(vec![0_u8; size].into_boxed_slice()).cast()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(id: u32, root: u32) {
    let created = with_contexts(|contexts| {
        match contexts.roots.get(&root) {
            Some(root) if root.is_framing() => drop(contexts.framed.insert(id, FramedStream::default())),
            Some(root) => drop(contexts.streams.insert(id, root.stream(id))),
            None => drop(contexts.roots.insert(id, Root::new(id))),
        }
        Some(())
    });
    if created.is_none() {
        host::log(
            Level::Error,
            "idempotency: the plugin that takes frames off needs a vm_id of its own: Envoy calls it while the filter writes",
        );
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, size: usize) -> u32 {
    with_root(root, false, |root| root.on_configure(size)).into()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    with_root(root, (), Root::on_tick);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_queue_ready(root: u32, _queue: u32) {
    with_root(root, (), Root::on_queue_ready);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(root: u32, token: u32, headers: usize, body_size: usize, _trailers: usize) {
    with_root(root, (), |root| root.on_http_call_response(token, headers, body_size));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive(root: u32, token: u32, size: usize) {
    with_root(root, (), |root| root.on_stream_message(token, size));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_close(root: u32, token: u32, _status: u32) {
    with_root(root, (), |root| root.on_stream_close(token));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(stream: u32, _count: usize, end: u32) -> u32 {
    with_stream(stream, |stream| stream.on_request_headers(end != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(stream: u32, size: usize, end: u32) -> u32 {
    with_body(stream, |stream| stream.on_request_body(size, end != 0), |stream| stream.on_request_body(size))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(stream: u32, _count: usize) -> u32 {
    with_stream(stream, HttpStream::on_request_trailers)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(stream: u32, _count: usize, end: u32) -> u32 {
    with_stream(stream, |stream| stream.on_response_headers(end != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(stream: u32, size: usize, end: u32) -> u32 {
    with_body(stream, |stream| stream.on_response_body(size, end != 0), |stream| stream.on_response_body(size))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_trailers(stream: u32, _count: usize) -> u32 {
    with_stream(stream, HttpStream::on_response_trailers)
}

/// Whether the context may be deleted.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(id: u32) -> u32 {
    let may_go = with_contexts(|contexts| match contexts.streams.get_mut(&id) {
        Some(stream) => {
            stream.on_done();
            Some(true)
        }
        None => contexts.roots.get_mut(&id).map(Root::on_done),
    });
    may_go.unwrap_or(true).into()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(id: u32) {
    with_contexts(|contexts| {
        if contexts.streams.remove(&id).is_none() && contexts.framed.remove(&id).is_none() {
            contexts.roots.remove(&id);
        }
        Some(())
    });
}
