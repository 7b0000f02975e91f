//! Every call to the host, in bytes and `Result`s.
//!
//! Its one rule: nothing in here panics, whatever the host answers.
//! It does not know why a call is made. Where a call is only legal in some callbacks, its comment says so.
#![expect(unsafe_code, reason = "the host's functions are foreign, and hand over memory that they had us allocate")]

use std::ptr::null_mut;

use crate::command::Failure;
use crate::message::Headers;
use crate::record::Input;
use crate::shell::abi::{
    clock_time_get, proxy_add_header_map_value, proxy_continue_stream, proxy_define_metric, proxy_dequeue_shared_queue,
    proxy_done, proxy_enqueue_shared_queue, proxy_get_buffer_bytes, proxy_get_header_map_pairs,
    proxy_get_header_map_value, proxy_get_property, proxy_get_shared_data, proxy_grpc_cancel, proxy_grpc_send,
    proxy_grpc_stream, proxy_http_call, proxy_increment_metric, proxy_log, proxy_record_metric,
    proxy_register_shared_queue, proxy_remove_header_map_value, proxy_replace_header_map_value,
    proxy_send_local_response, proxy_set_buffer_bytes, proxy_set_effective_context, proxy_set_header_map_pairs,
    proxy_set_property, proxy_set_shared_data, proxy_set_tick_period_milliseconds, random_get,
};
use crate::store::local::SharedMap;

/// Which header map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Map {
    /// Legal in request headers, and until the request is let go.
    Request = 0,
    /// Legal in response headers, and until the response is let go.
    Response = 2,
    /// Legal in the root's callback about a callout.
    CallResponse = 6,
}

/// Which buffer.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Buffer {
    /// Legal in request body and trailers.
    RequestBody = 0,
    /// Legal in response body and trailers.
    ResponseBody = 1,
    /// Legal in the root's callback about a callout.
    CallResponseBody = 4,
    /// Legal in the root's callback about a message of a stream.
    StreamMessage = 5,
    /// Legal in the root's configure callback.
    PluginConfiguration = 7,
}

/// How loud a log line is.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Level {
    /// Worth knowing.
    Info = 2,
    /// An operator should look.
    Warn = 3,
    /// It does not work.
    Error = 4,
}

/// Which kind of metric.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Metric {
    /// Only grows.
    Counter = 0,
    /// Goes up and down.
    Gauge = 1,
    /// Takes one value after another.
    Histogram = 2,
}

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const CAS_MISMATCH: u32 = 8;
/// A version no cell has: makes `proxy_set_shared_data` an insert-if-absent, because Envoy looks at the version only
/// where there is a value.
const NO_VERSION: u32 = u32::MAX;
/// The version that makes it write whatever was there.
const ANY_VERSION: u32 = 0;
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;

/// Microseconds of a clock that all workers share and that never goes back.
pub fn monotonic_us() -> u64 {
    clock_us(MONOTONIC)
}

fn clock_us(clock: u32) -> u64 {
    let mut nanoseconds = 0;
    // SAFETY: the host writes one u64 where we point.
    unsafe { clock_time_get(clock, 0, &raw mut nanoseconds) };
    nanoseconds / 1000
}

/// Milliseconds of the same clock.
pub fn monotonic_ms() -> u64 {
    monotonic_us() / 1000
}

/// Bytes from the host's own generator of random numbers, which cannot fail: its only error is an address that is none.
pub fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // SAFETY: the host writes as many bytes as we say there is room for.
    unsafe { random_get(bytes.as_mut_ptr(), len) };
    bytes
}

/// Writes one log line.
pub fn log(level: Level, text: &str) {
    // SAFETY: the host reads as many bytes as we say are there.
    unsafe { proxy_log(level as u32, text.as_ptr(), text.len()) };
}

/// All fields of a header map; none where the host has none in this callback.
pub fn headers(map: Map) -> Option<Headers> {
    // SAFETY: as `take` wants it.
    let bytes = take(|data, size| unsafe { proxy_get_header_map_pairs(map as u32, data, size) })?;
    parse_pairs(&bytes)
}

/// One field of a header map, the first of its name.
pub fn header(map: Map, name: &str) -> Option<Vec<u8>> {
    // SAFETY: as `take` wants it; the host reads the name as long as we say it is.
    take(|data, size| unsafe { proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, size) })
}

/// Adds a line beside those that may be there.
pub fn add_header(map: Map, name: &str, value: &[u8]) {
    // SAFETY: the host reads as many bytes as we say are there.
    unsafe { proxy_add_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
}

/// Removes every line of this name.
pub fn remove_header(map: Map, name: &str) {
    // SAFETY: the host reads as many bytes as we say are there.
    unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) };
}

/// Puts one line in the place of all there are.
pub fn set_header(map: Map, name: &str, value: &[u8]) {
    // SAFETY: the host reads as many bytes as we say are there.
    unsafe { proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
}

/// Puts these fields in the place of all that a header map has.
pub fn set_headers(map: Map, headers: &Headers) {
    let pairs = encode_pairs(headers);
    // SAFETY: the host reads as many bytes as we say are there.
    unsafe { proxy_set_header_map_pairs(map as u32, pairs.as_ptr(), pairs.len()) };
}

/// Puts these bytes in the place of the first so many of the piece of a body in hand; of all where there are fewer.
pub fn set_body(buffer: Buffer, replaced: usize, bytes: &[u8]) {
    // SAFETY: the host reads as many bytes as we say are there, and stops where its own end.
    unsafe { proxy_set_buffer_bytes(buffer as u32, 0, replaced, bytes.as_ptr(), bytes.len()) };
}

/// Part of a buffer; empty where the host has none in this callback.
pub fn buffer(buffer: Buffer, start: usize, len: usize) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    // SAFETY: as `take` wants it.
    take(|data, size| unsafe { proxy_get_buffer_bytes(buffer as u32, start, len, data, size) }).unwrap_or_default()
}

/// An attribute of the stream or of the plugin.
pub fn property(path: &[&str]) -> Option<Vec<u8>> {
    let path = path.join("\0");
    // SAFETY: as `take` wants it; the host reads the path as long as we say it is.
    take(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
}

/// An attribute that is a whole number: eight bytes, little-endian.
pub fn number(path: &[&str]) -> Option<u64> {
    property(path)?.try_into().ok().map(u64::from_le_bytes)
}

/// Sets a filter state of ours: `wasm.<name>` in access logs.
pub fn set_property(name: &str, value: &[u8]) {
    // SAFETY: the host reads as many bytes as we say are there.
    unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
}

/// Sends an answer in the upstream's place. Legal until response headers have gone out; one answer a stream.
pub fn send_local_response(status: u16, headers: &Headers, body: &[u8], details: &str) {
    let pairs = encode_pairs(headers);
    let no_grpc_status = -1;
    // SAFETY: the host reads as many bytes as we say are there.
    unsafe {
        proxy_send_local_response(
            status.into(),
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            pairs.as_ptr(),
            pairs.len(),
            no_grpc_status,
        )
    };
}

/// Lets go of the message held in this direction. Legal outside the callbacks of that message.
pub fn continue_stream(map: Map) {
    let stream = if map == Map::Request { 0 } else { 1 };
    // SAFETY: no memory is involved.
    unsafe { proxy_continue_stream(stream) };
}

/// Makes the calls that follow be about this context; tells whether it is still there.
pub fn set_effective_context(id: u32) -> bool {
    // SAFETY: no memory is involved.
    unsafe { proxy_set_effective_context(id) == OK }
}

/// Has the root's tick called so often.
pub fn set_tick_period(period_ms: u32) {
    // SAFETY: no memory is involved.
    unsafe { proxy_set_tick_period_milliseconds(period_ms) };
}

/// Tells the host that a root whose `on_done` said no is done now.
pub fn done() {
    // SAFETY: no memory is involved.
    unsafe { proxy_done() };
}

/// Defines a metric, or finds it where it is defined; none where the host refuses.
pub fn define_metric(kind: Metric, name: &str) -> Option<u32> {
    let mut id = 0;
    // SAFETY: the host reads the name as long as we say it is, and writes one u32 where we point.
    let status = unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) };
    (status == OK).then_some(id)
}

/// Changes a counter or gauge by this much.
pub fn increment_metric(id: u32, offset: i64) {
    // SAFETY: no memory is involved.
    unsafe { proxy_increment_metric(id, offset) };
}

/// Sets a gauge.
pub fn record_metric(id: u32, value: u64) {
    // SAFETY: no memory is involved.
    unsafe { proxy_record_metric(id, value) };
}

/// Sends an HTTP request and gives its token; none where the host refuses, because the cluster is unknown or empty.
/// It belongs to the root, whatever callback makes it.
pub fn http_call(cluster: &str, headers: &Headers, body: &[u8], timeout_ms: u64) -> Option<u32> {
    let (pairs, no_trailers) = (encode_pairs(headers), encode_pairs(&Headers::default()));
    let timeout_ms = timeout_ms.try_into().unwrap_or(u32::MAX);
    let mut token = 0;
    // SAFETY: the host reads as many bytes as we say are there, and writes one u32 where we point.
    let status = unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            pairs.as_ptr(),
            pairs.len(),
            body.as_ptr(),
            body.len(),
            no_trailers.as_ptr(),
            no_trailers.len(),
            timeout_ms,
            &raw mut token,
        )
    };
    (status == OK).then_some(token)
}

/// Opens a stream of messages and gives its token; none where the host refuses. It belongs to the root, whatever callback
/// opens it.
pub fn open_stream(cluster: &str) -> Option<u32> {
    // `GrpcService { envoy_grpc: { cluster_name } }` in protobuf; the configuration keeps each length to one byte.
    let len = u8::try_from(cluster.len()).ok().filter(|len| *len < 126)?;
    let service = [&[b'\n', len + 2, b'\n', len], cluster.as_bytes()].concat();
    let no_metadata = encode_pairs(&Headers::default());
    let (name, method) = ("idempotency.Redis", "Commands");
    let mut token = 0;
    // SAFETY: the host reads as many bytes as we say are there, and writes one u32 where we point.
    let status = unsafe {
        proxy_grpc_stream(
            service.as_ptr(),
            service.len(),
            name.as_ptr(),
            name.len(),
            method.as_ptr(),
            method.len(),
            no_metadata.as_ptr(),
            no_metadata.len(),
            &raw mut token,
        )
    };
    (status == OK).then_some(token)
}

/// Writes to a stream; tells whether it is there. The host tells of its end only after the callback under way.
pub fn write_to_stream(token: u32, bytes: &[u8]) -> bool {
    // SAFETY: the host reads as many bytes as we say are there.
    unsafe { proxy_grpc_send(token, bytes.as_ptr(), bytes.len(), 0) == OK }
}

/// Ends a stream, of which nothing more comes then. Not legal in a callback that brings a message of it: the host goes on
/// with the stream after that. One that the other side has ended is to be ended as well, in the very callback that tells
/// so: the host keeps it otherwise, and touches it when the root goes and it is no more.
pub fn cancel_stream(token: u32) {
    // SAFETY: no memory is involved.
    unsafe { proxy_grpc_cancel(token) };
}

/// By which a stream has its root called: a queue that wakes the root which registered its name last.
pub struct RootWaker {
    queue: u32,
}

impl RootWaker {
    /// Registers a queue for the root whose callback this is, under a name that is this root's alone; none where the
    /// host refuses.
    pub fn register(name: &str) -> Option<Self> {
        let mut queue = 0;
        // SAFETY: the host reads the name as long as we say it is, and writes one u32 where we point.
        let status = unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &raw mut queue) };
        (status == OK).then_some(RootWaker { queue })
    }

    /// Has the root called once what is being done now is done.
    pub fn wake(&self) {
        // SAFETY: no byte is read.
        unsafe { proxy_enqueue_shared_queue(self.queue, [].as_ptr(), 0) };
    }

    /// Takes out of the queue what has woken the root.
    pub fn clear(&self) {
        // SAFETY: as `take` wants it.
        take(|data, size| unsafe { proxy_dequeue_shared_queue(self.queue, data, size) });
    }
}

/// Envoy's shared data: one map for all workers of one Envoy.
pub struct SharedData;

impl SharedMap for SharedData {
    fn get(&self, key: &[u8]) -> Result<Option<(Vec<u8>, u32)>, Failure> {
        let mut version = 0;
        let mut status = OK;
        let value = take(|data, size| {
            // SAFETY: as `take` wants it; the host reads the key as long as we say it is and writes one u32.
            status = unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut version) };
            status
        });
        match status {
            OK => Ok(Some((value.unwrap_or_default(), version))),
            NOT_FOUND => Ok(None),
            _ => Err(Failure::Host),
        }
    }

    fn swap(&self, key: &[u8], value: &[u8], version: Option<u32>) -> Result<bool, Failure> {
        set_shared_data(key, value, version.unwrap_or(NO_VERSION))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        set_shared_data(key, value, ANY_VERSION).map(|_| ())
    }

    fn wall_ms(&self) -> u64 {
        clock_us(REALTIME) / 1000
    }
}

fn set_shared_data(key: &[u8], value: &[u8], version: u32) -> Result<bool, Failure> {
    // SAFETY: the host reads as many bytes as we say are there.
    match unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version) } {
        OK => Ok(true),
        CAS_MISMATCH => Ok(false),
        _ => Err(Failure::Host),
    }
}

/// Makes a call that hands over bytes: the host allocates them through our own allocator and writes where they are.
/// None where the host refuses or has nothing.
fn take(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
    let mut data: *mut u8 = null_mut();
    let mut size = 0;
    let status = call(&raw mut data, &raw mut size);
    if status != OK || data.is_null() {
        return None;
    }
    // SAFETY: `proxy_on_memory_allocate` made this block with exactly this size as a boxed slice and gave it
    // away; the host wrote all of it.
    Some(unsafe { Vec::from_raw_parts(data, size, size) })
}

/// The host's form of a header map: count, then each name's and value's length, then each name and value with a zero.
fn parse_pairs(bytes: &[u8]) -> Option<Headers> {
    let mut input = Input(bytes);
    let count = u32::from_le_bytes(input.array().ok()?) as usize;
    let mut lengths = Input(input.take(count.checked_mul(8)?).ok()?);
    let mut headers = Headers::with_capacity(count, input.0.len());
    for _ in 0..count {
        let name_len = u32::from_le_bytes(lengths.array().ok()?) as usize;
        let value_len = u32::from_le_bytes(lengths.array().ok()?) as usize;
        let name = input.take(name_len).ok()?;
        input.take(1).ok()?;
        headers.push(name, input.take(value_len).ok()?);
        input.take(1).ok()?;
    }
    Some(headers)
}

fn encode_pairs(headers: &Headers) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&(headers.iter().count() as u32).to_le_bytes());
    for (name, value) in headers.iter() {
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for (name, value) in headers.iter() {
        for text in [name, value] {
            out.extend_from_slice(text);
            out.push(0);
        }
    }
    out
}
