//! The service does what its faces say: what it refuses is in no ledger, and what it resets has run.
//!
//! One rule: the service is asked directly, and its ledger is read as the judge reads it.
//! It does not know of gateways.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

use chaos::history::Kind;
use chaos::upstream::serve;
use harness::{PATIENCE, Port, Request, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The service, in a thread that ends with the test.
struct Service {
    folder: TempDir,
    ports: [Port; 2],
}

impl Service {
    fn start() -> Service {
        let (folder, ports) = (TempDir::new().unwrap(), [Port::unshared(), Port::unshared()]);
        let ([http1, http2], ledger) = (ports.each_ref().map(Port::number), folder.path().join("ledger"));
        thread::spawn(move || serve(http1, http2, &ledger).unwrap());
        let service = Service { folder, ports };
        wait_until("it answers", PATIENCE, || service.try_mood(json!({})).is_ok());
        service
    }

    fn try_mood(&self, mood: Value) -> Result<(), String> {
        Request::new(self.ports[0].addr(), "PUT", "/mood").body(mood.to_string()).try_send().map(drop)
    }

    fn mood(&self, mood: Value) {
        self.try_mood(mood).unwrap();
    }

    fn http2(&self) -> SocketAddr {
        self.ports[1].addr()
    }

    fn pay(&self) -> Result<u16, String> {
        let request = Request::post(self.http2(), Kind::Http2.path()).body("ten");
        request.try_send_h2().map(|answer| answer.status)
    }

    fn take(&self, fence: u64, delay_ms: u64) -> u16 {
        let request = Request::post(self.ports[0].addr(), Kind::Locked.path()).header("x-chaos-resource", "r");
        let request = request.header("idempotency-fence", fence.to_string());
        request.header("x-chaos-delay-ms", delay_ms.to_string()).send().status
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn executions(&self) -> usize {
        fs::read_to_string(self.file("ledger")).unwrap().lines().count()
    }

    fn refusals(&self) -> usize {
        fs::read(self.file("refusals")).unwrap().len()
    }
}

#[test]
fn every_other_stream_is_refused_and_has_not_run() {
    let service = Service::start();
    for (go_away, words) in [(false, "refused stream"), (true, "")] {
        let (executions, refusals) = (service.executions(), service.refusals());
        service.mood(json!({ "go_away": go_away }));
        let answers = [(); 6].map(|()| service.pay());
        let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert!(refused.len() == 3 && refused.iter().all(|why| why.contains(words)), "{answers:?}");
        assert_eq!((service.executions() - executions, service.refusals() - refusals), (3, 3));
    }
}

#[test]
fn a_stream_that_is_reset_with_code_2_has_run() {
    let service = Service::start();
    service.mood(json!({ "sent": 2, "only": Kind::Http2.path() }));
    let why = service.pay().unwrap_err();
    assert!(why.contains("internal error"), "{why}");
    assert_eq!((service.executions(), service.refusals()), (1, 0));
}

#[test]
fn the_socket_is_a_face_of_the_same_service_with_a_mood_of_its_own() {
    let service = Service::start();
    service.mood(json!({ "status": 503, "only": Kind::Socket.path() }));
    let mut stream = UnixStream::connect(service.file("socket")).unwrap();
    write!(stream, "POST {} HTTP/1.1\r\ncontent-length: 0\r\n\r\n", Kind::Socket.path()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 503");
    assert_eq!(service.pay(), Ok(201));
    assert_eq!(service.executions(), 2);
}

#[test]
fn a_resource_is_not_written_under_a_smaller_fence_than_was_shown_since_it_was_read() {
    let service = Service::start();
    thread::scope(|scope| {
        let late = scope.spawn(|| service.take(5, 2000));
        wait_until("it is at work", PATIENCE, || service.executions() == 1);
        assert_eq!(service.take(6, 0), 201);
        assert_eq!(late.join().unwrap(), 412);
    });
    assert_eq!((service.take(6, 0), service.take(4, 0)), (201, 412));
}
