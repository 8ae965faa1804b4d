//! How the coordinator's control loop fares, by its own `/metrics`.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Outcome;

const DECISIONS: &str = "rustspeed_control_decision_seconds";

/// Decisions by their time since the process began: bounds in seconds, and cumulative counts.
pub(crate) type Buckets = Vec<(f64, f64)>;

pub(crate) async fn buckets(address: &str) -> Outcome<Buckets> {
    let text = scrape(address).await?;
    let mut buckets = Buckets::new();
    for line in text.lines().filter_map(|line| line.strip_prefix(DECISIONS)) {
        let Some(rest) = line.strip_prefix("_bucket{le=\"") else { continue };
        let (bound, count) = rest.split_once("\"}").ok_or("a bucket without an end")?;
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
        buckets.push((bound, count.trim().parse()?));
    }
    Ok(buckets)
}

/// Time per decision since `before`, as far as a histogram tells it.
pub(crate) async fn decisions(address: &str, before: &Buckets) -> Outcome<Value> {
    let mut buckets = buckets(address).await?;
    for ((_, count), (_, earlier)) in buckets.iter_mut().zip(before) {
        *count -= earlier;
    }
    let all = buckets.last().ok_or("no histogram of decisions")?.1;
    // The bound below which so many of them are; the true value is at most that.
    let within = |part: f64| {
        let bucket = buckets.iter().find(|(_, count)| *count >= all * part);
        bucket.map_or(Value::Null, |(bound, _)| json!(bound * 1e3))
    };
    Ok(json!({ "count": all, "p99_below_ms": within(0.99), "max_below_ms": within(1.0) }))
}

async fn scrape(address: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
