//! The control port: counters, logs and orders, JSON over HTTP.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::faults::Rule;
use crate::knobs::Knobs;
use crate::world::World;

pub(crate) async fn serve(world: Arc<World>, listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let world = Arc::clone(&world);
        let service = service_fn(move |request| obey(Arc::clone(&world), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn obey(
    world: Arc<World>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|all| all.to_bytes()).unwrap_or_default();
    let (status, answer) = match order(&world, head.method.as_str(), head.uri.path(), &body) {
        Ok(answer) => (200, answer),
        Err(Mistake::Unknown) => (404, json!({"error": "no such call"})),
        Err(Mistake::Body(reason)) => (400, json!({"error": reason.to_string()})),
    };
    let mut response = Response::new(Full::new(answer.to_string().into()));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}

enum Mistake {
    Unknown,
    Body(serde_json::Error),
}

impl From<serde_json::Error> for Mistake {
    fn from(reason: serde_json::Error) -> Self {
        Self::Body(reason)
    }
}

fn order(world: &World, method: &str, path: &str, body: &[u8]) -> Result<Value, Mistake> {
    match (method, path) {
        ("GET", "/counters") => Ok(world.counters.to_json()),
        ("POST", "/reset") => {
            world.counters.reset();
            world.log.clear();
            Ok(world.counters.to_json())
        }
        ("GET", "/requests") => Ok(serde_json::to_value(world.log.entries())?),
        ("GET", "/egress") => Ok(serde_json::to_value(world.log.egress())?),
        ("GET", "/loaded") => Ok(loaded(world)),
        ("GET", "/faults") => Ok(serde_json::to_value(world.faults.list())?),
        ("POST", "/faults") => {
            let rules: Vec<Rule> = match serde_json::from_slice(body)? {
                Value::Array(rules) => serde_json::from_value(Value::Array(rules))?,
                one => vec![serde_json::from_value(one)?],
            };
            rules.into_iter().for_each(|rule| world.faults.add(rule));
            Ok(serde_json::to_value(world.faults.list())?)
        }
        ("DELETE", "/faults") => {
            world.faults.clear();
            Ok(json!([]))
        }
        ("GET", "/knobs") => Ok(serde_json::to_value(world.panel.now())?),
        ("POST", "/knobs") => turn(world, body),
        ("POST", "/cut") => {
            world.cut.send_modify(|times| *times += 1);
            Ok(json!({}))
        }
        _ => Err(Mistake::Unknown),
    }
}

/// Sets the knobs that the body names and leaves the others.
fn turn(world: &World, body: &[u8]) -> Result<Value, Mistake> {
    let mut knobs = serde_json::to_value(world.panel.now())?;
    let named: serde_json::Map<String, Value> = serde_json::from_slice(body)?;
    if let Value::Object(all) = &mut knobs {
        all.extend(named);
    }
    let knobs: Knobs = serde_json::from_value(knobs)?;
    world.panel.set(knobs.clone());
    Ok(serde_json::to_value(knobs)?)
}

fn loaded(world: &World) -> Value {
    let entry = |resident: crate::sched::Resident| {
        json!({
            "model": resident.model.name.short(),
            "digest": resident.model.digest,
            "num_ctx": resident.context,
            "bytes": resident.footprint,
            "users": resident.refs,
        })
    };
    world.scheduler.residents().into_iter().map(entry).collect()
}
