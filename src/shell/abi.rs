//! The host's functions, as Envoy declares them.
//!
//! Its one rule: what stands here is what the module imports, beside what Rust's own library does.
//! It does not know when a call is legal, nor what an answer means: that is in `host`, which alone calls them.
#![expect(unsafe_code, reason = "the host's functions are foreign")]

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    pub fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        value: *const u8,
        value_len: usize,
    ) -> u32;
    pub fn proxy_continue_stream(stream: u32) -> u32;
    pub fn proxy_define_metric(kind: u32, name: *const u8, name_len: usize, id: *mut u32) -> u32;
    pub fn proxy_dequeue_shared_queue(queue: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    pub fn proxy_done() -> u32;
    pub fn proxy_enqueue_shared_queue(queue: u32, data: *const u8, len: usize) -> u32;
    pub fn proxy_get_buffer_bytes(buffer: u32, start: usize, len: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    pub fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    pub fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    pub fn proxy_get_property(path: *const u8, path_len: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    pub fn proxy_get_shared_data(
        key: *const u8,
        key_len: usize,
        data: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    pub fn proxy_grpc_cancel(token: u32) -> u32;
    pub fn proxy_grpc_send(token: u32, message: *const u8, len: usize, end: u32) -> u32;
    pub fn proxy_grpc_stream(
        service: *const u8,
        service_len: usize,
        service_name: *const u8,
        service_name_len: usize,
        method: *const u8,
        method_len: usize,
        initial_metadata: *const u8,
        initial_metadata_len: usize,
        token: *mut u32,
    ) -> u32;
    pub fn proxy_http_call(
        cluster: *const u8,
        cluster_len: usize,
        headers: *const u8,
        headers_len: usize,
        body: *const u8,
        body_len: usize,
        trailers: *const u8,
        trailers_len: usize,
        timeout_ms: u32,
        token: *mut u32,
    ) -> u32;
    pub fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    pub fn proxy_log(level: u32, text: *const u8, len: usize) -> u32;
    pub fn proxy_register_shared_queue(name: *const u8, name_len: usize, queue: *mut u32) -> u32;
    pub fn proxy_record_metric(id: u32, value: u64) -> u32;
    pub fn proxy_remove_header_map_value(map: u32, name: *const u8, name_len: usize) -> u32;
    pub fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        value: *const u8,
        value_len: usize,
    ) -> u32;
    pub fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_len: usize,
        body: *const u8,
        body_len: usize,
        headers: *const u8,
        headers_len: usize,
        grpc_status: i32,
    ) -> u32;
    pub fn proxy_set_buffer_bytes(buffer: u32, start: usize, len: usize, data: *const u8, data_len: usize) -> u32;
    pub fn proxy_set_effective_context(id: u32) -> u32;
    pub fn proxy_set_header_map_pairs(map: u32, data: *const u8, len: usize) -> u32;
    pub fn proxy_set_property(path: *const u8, path_len: usize, value: *const u8, value_len: usize) -> u32;
    pub fn proxy_set_shared_data(key: *const u8, key_len: usize, value: *const u8, value_len: usize, cas: u32) -> u32;
    pub fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    pub fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
    pub fn random_get(buffer: *mut u8, len: usize) -> u32;
}
