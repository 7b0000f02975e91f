//! The calls to Webdis: which are under way, and what came back from them.
//!
//! Its one rule: a call ends once, with a reply or with a reason.
//! It does not know what a call carries, nor what becomes of its reply.

use crate::command::{Failure, RedisError};
use crate::config::{Redis, Webdis};
use crate::message::Headers;
use crate::shell::host::{self, Buffer, Map};
use crate::store::client::{Batch, Reply};
use crate::store::redis::Named;
use crate::store::resp::Answer;
use crate::store::webdis;

/// The calls of one worker.
pub struct Calls {
    cluster: String,
    webdis: Webdis,
    prefix: String,
    timeout_ms: u64,
    /// Few: the client of the store sees to that.
    under_way: Vec<Sent>,
    call_us: Option<u32>,
}

struct Sent {
    token: u32,
    batch: Batch,
    named: Named,
    at_us: u64,
}

impl Calls {
    /// None under way.
    pub fn new(redis: &Redis, webdis: &Webdis, call_us: Option<u32>) -> Self {
        let Redis { cluster, prefix, timeout_ms, .. } = redis.clone();
        Calls { cluster, webdis: webdis.clone(), prefix, timeout_ms, under_way: Vec::new(), call_us }
    }

    /// Sends a batch; tells whether the host took it.
    pub fn send(&mut self, batch: Batch) -> bool {
        self.send_as(batch, Named::Hash)
    }

    /// The end of a call: which batch it carried, and what came back. None where the call goes on.
    pub fn ended(&mut self, token: u32, responded: bool, body_size: usize) -> Option<(u64, Reply)> {
        let place = self.under_way.iter().position(|sent| sent.token == token)?;
        let sent = self.under_way.swap_remove(place);
        if let Some(id) = self.call_us {
            host::record_metric(id, host::monotonic_us().saturating_sub(sent.at_us));
        }
        let status = responded.then(|| host::header(Map::CallResponse, ":status")).flatten();
        let status = status.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
        let body = host::buffer(Buffer::CallResponseBody, 0, body_size);
        let id = sent.batch.id;
        match (webdis::read(status, &body), sent.named) {
            (Answer::Reply(reply), _) => Some((id, reply)),
            (Answer::NoScript, Named::Text) => Some((id, Reply::Failed(Failure::Redis(RedisError::NoScript)))),
            (Answer::NoScript, Named::Hash) => match self.send_as(sent.batch, Named::Text) {
                true => None,
                false => Some((id, Reply::Failed(Failure::Transport))),
            },
        }
    }

    fn send_as(&mut self, batch: Batch, named: Named) -> bool {
        let Webdis { authority, path, authorization } = &self.webdis;
        let put = webdis::put(path, &self.prefix, &batch, named);
        let mut headers: Headers =
            [(":method", "PUT"), (":path", put.path.as_str()), (":authority", authority)].into_iter().collect();
        authorization.iter().for_each(|value| headers.push(b"authorization", value.as_bytes()));
        let at_us = host::monotonic_us();
        let Some(token) = host::http_call(&self.cluster, &headers, &put.body, self.timeout_ms) else { return false };
        self.under_way.push(Sent { token, batch, named, at_us });
        true
    }
}
