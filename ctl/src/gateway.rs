//! The operator plugin of a gateway, asked by HTTP.
//!
//! Its one rule: the token comes from the environment and is sent to this gateway only.
//! It does not know what the plugin makes of a word.

use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;

use crate::Failed;
use crate::arguments::{Arguments, Word};
use crate::output::Said;

/// A gateway's operator plugin.
pub struct Gateway {
    agent: Agent,
    url: String,
    token: String,
}

impl Gateway {
    /// The one that is to be asked; none where Redis is.
    pub fn of(arguments: &Arguments) -> Result<Option<Gateway>, Failed> {
        let Some(url) = &arguments.gateway else { return Ok(None) };
        let token = std::env::var(&arguments.token_env)
            .map_err(|_| format!("{} must hold the token of the operator plugin at {url}", arguments.token_env))?;
        // A table is searched for 12 digits in steps, a few seconds by default and longer where it is larger.
        let timeout = Some(Duration::from_millis(12 * arguments.timeout));
        let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).timeout_global(timeout);
        let url = url.trim_end_matches('/').to_owned();
        Ok(Some(Gateway { agent: config.build().into(), url, token }))
    }

    /// What is known of an operation.
    pub fn look(&self, operation: &str) -> Result<Said, Failed> {
        let request = self.agent.get(format!("{}/{operation}", self.url));
        answer(request.header("authorization", format!("Bearer {}", self.token)).call())
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

    fn post(&self, operation: &str, deed: &str, body: &str) -> Result<Said, Failed> {
        let request = self.agent.post(format!("{}/{operation}/{deed}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        answer(request.header("content-type", "application/json").send(body))
    }
}

fn answer(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Said, Failed> {
    let mut answer = answer.map_err(|error| format!("the gateway cannot be asked: {error}"))?;
    let status = answer.status().as_u16();
    let body =
        answer.body_mut().read_to_string().map_err(|error| format!("the gateway's answer broke off: {error}"))?;
    let body: Value = serde_json::from_str(&body)
        .map_err(|_| format!("no operator plugin answers there: the answer is {status}, and no JSON"))?;
    match (status, &body["detail"]) {
        (200 | 404, Value::Null) => {
            let members = ["operation", "state", "attempt", "status", "ttl", "remembered_s"];
            let members = members.into_iter().filter_map(|name| Some((name, body.get(name)?.clone())));
            let said = Said::members(members.collect());
            Ok(if status == 200 { said } else { said.no() })
        }
        (409, Value::String(why)) => {
            Ok(Said { text: format!("Refused: {why}\n"), json: json!({ "refused": why }), is_well: false })
        }
        (_, Value::String(why)) => Err(format!("the gateway answers {status}: {why}")),
        _ => Err(format!("the gateway answers {status}")),
    }
}
