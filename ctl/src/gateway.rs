//! The operator plugin of a gateway, asked by HTTP.
//!
//! Its one rule: no word is said to a server that has not answered as an operator plugin does.
//! It does not know what the plugin makes of a word.

use std::time::Duration;

use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::Failed;
use crate::arguments::{Arguments, Word};
use crate::output::{Answer, Said, time};

/// A gateway's operator plugin.
pub struct Gateway {
    agent: Agent,
    url: String,
    token: String,
    timeout_ms: u64,
}

/// What the plugin has answered.
enum Heard {
    /// What is known of the operation that is so named, in the words of the plugin.
    Known(String, Value),
    /// The operation is not known.
    Absent(Value),
    /// Why nothing was done.
    Refused(String),
}

impl Gateway {
    /// The one that is to be asked; none where Redis is.
    pub fn of(arguments: &Arguments) -> Result<Option<Gateway>, Failed> {
        let Some(url) = &arguments.gateway else { return Ok(None) };
        let token = std::env::var(&arguments.token_env)
            .map_err(|_| format!("{} must hold the token of the operator plugin at {url}", arguments.token_env))?;
        // A table is searched for 12 digits in steps, a few seconds by default and longer where it is larger.
        let timeout_ms = 12 * arguments.timeout;
        let timeout = Some(Duration::from_millis(timeout_ms));
        let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).timeout_global(timeout);
        let url = url.trim_end_matches('/').to_owned();
        Ok(Some(Gateway { agent: config.build().into(), url, token, timeout_ms }))
    }

    /// What is known of an operation.
    pub fn look(&self, operation: &str) -> Result<Said, Failed> {
        self.get(operation).map(said)
    }

    /// Says what became of it.
    pub fn resolve(&self, operation: &str, word: &Word) -> Result<Said, Failed> {
        let mut said = json!({ "ran": word.ran });
        if let Some(attempt) = word.attempt {
            said["attempt"] = attempt.into();
        }
        if let Some(status) = word.status {
            said["status"] = status.into();
        }
        if let Some(ttl_ms) = word.ttl {
            said["ttl_s"] = ttl_ms.div_ceil(1000).into();
        }
        self.post(operation, "resolve", &said.to_string())
    }

    /// Lets it run again.
    pub fn forget(&self, operation: &str) -> Result<Said, Failed> {
        self.post(operation, "forget", "")
    }

    fn get(&self, operation: &str) -> Result<Heard, Failed> {
        let request = self.agent.get(format!("{}/{operation}", self.url));
        let answer = request.header("authorization", format!("Bearer {}", self.token)).call();
        self.read(operation, answer.map_err(|error| self.unanswered(&error))?)
    }

    /// Says a word, once a look has shown that an operator plugin answers there: another server must not get it.
    fn post(&self, operation: &str, deed: &str, body: &str) -> Result<Said, Failed> {
        let whole = match self.get(operation)? {
            Heard::Known(whole, _) => whole,
            other => return Ok(said(other)),
        };
        let request = self.agent.post(format!("{}/{whole}/{deed}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let answer = request.header("content-type", "application/json").send(body);
        let unsure = |why: Failed| format!("{why}; whether the word was taken is not known: look, and say it again");
        let answer = answer.map_err(|error| unsure(self.unanswered(&error)))?;
        self.read(&whole, answer).map(said)
    }

    fn unanswered(&self, error: &ureq::Error) -> Failed {
        match error {
            ureq::Error::Timeout(_) => format!("no answer of {} within {}", self.url, time(self.timeout_ms)),
            error => format!("the gateway cannot be asked at {}: {error}", self.url),
        }
    }

    /// Reads an answer, which has the plugin's own form wherever the plugin has given it.
    fn read(&self, operation: &str, mut answer: Response<Body>) -> Result<Heard, Failed> {
        let status = answer.status().as_u16();
        let body =
            answer.body_mut().read_to_string().map_err(|error| format!("the gateway's answer broke off: {error}"))?;
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        let name = body["operation"].as_str().filter(|name| name.starts_with(&operation.to_ascii_lowercase()));
        match (status, name, body["state"].as_str(), body["detail"].as_str()) {
            (200, Some(name), Some(_), None) if body["attempt"].is_u64() => Ok(Heard::Known(name.to_owned(), body)),
            (200 | 404, _, Some("absent"), None) => Ok(Heard::Absent(body)),
            (409, _, None, Some(why)) if is_problem(&body, status) => Ok(Heard::Refused(why.to_owned())),
            (_, _, None, Some(why)) if is_problem(&body, status) => Err(format!("the gateway answers {status}: {why}")),
            _ => Err(format!(
                "{} is not an operator's listener: the answer is {status}, and no operator plugin's. \
                 http://HOST:PORT/operations is right, with the port and the path of the plugin",
                self.url
            )),
        }
    }
}

/// Whether it says why, as the plugin does.
fn is_problem(body: &Value, status: u16) -> bool {
    body["type"] == "about:blank" && body["status"] == status && body["title"].is_string()
}

fn said(heard: Heard) -> Said {
    let members = |body: &Value| {
        let members = ["operation", "state", "attempt", "status", "ttl", "remembered_s"];
        Said::members(members.into_iter().filter_map(|name| Some((name, body.get(name)?.clone()))).collect())
    };
    match heard {
        Heard::Known(_, body) => members(&body),
        Heard::Absent(body) => members(&body).no(),
        Heard::Refused(why) => {
            Said { text: format!("Refused: {why}\n"), json: json!({ "refused": why }), answer: Answer::No }
        }
    }
}
