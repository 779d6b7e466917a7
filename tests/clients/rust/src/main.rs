//! The Rust clients, each with its defaults: `clients LIBRARY PROTOCOL`, where LIBRARY is redis-rs or fred.

mod endpoint;
mod fred_client;
mod redis_async;
mod redis_sync;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use endpoint::Endpoint;

const CASE_DEADLINE: Duration = Duration::from_secs(60);
const CONDITION_DEADLINE: Duration = Duration::from_secs(30);

type Case = (&'static str, Pin<Box<dyn Future<Output = Result<()>>>>);

/// Names a case after its function.
macro_rules! case {
    ($function:ident $(, $argument:expr)*) => {
        (stringify!($function), Box::pin($function($($argument),*)) as std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>>>>)
    };
}
pub(crate) use case;

/// Fails, saying what was got and expected, without the panic of `assert_eq!`.
macro_rules! same {
    ($actual:expr, $expected:expr) => {{
        let (actual, expected) = (&$actual, &$expected);
        anyhow::ensure!(
            *actual == *expected,
            "line {}: got {actual:?}, expected {expected:?}",
            line!()
        );
    }};
}
pub(crate) use same;

/// Waits until the condition is true; fails, saying `what`, when it does not become so.
async fn until<C, F>(what: &str, mut condition: C) -> Result<()>
where
    C: FnMut() -> F,
    F: Future<Output = Result<bool>>,
{
    let started = Instant::now();
    while !condition().await? {
        if started.elapsed() > CONDITION_DEADLINE {
            bail!("not within {} s: {what}", CONDITION_DEADLINE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Runs the cases in order and writes which passed, as the runner reads it.
async fn run(cases: Vec<Case>) -> Result<bool> {
    let (mut passed, mut failed, mut seconds) = (Vec::new(), Vec::new(), serde_json::Map::new());
    for (name, work) in cases {
        let started = Instant::now();
        match tokio::time::timeout(CASE_DEADLINE, work).await {
            Ok(Ok(())) => passed.push(name),
            Ok(Err(error)) => {
                eprintln!("FAILED {name}: {error:#}");
                failed.push(name);
            }
            Err(_) => {
                eprintln!("FAILED {name}: took over {} s", CASE_DEADLINE.as_secs());
                failed.push(name);
                break;
            }
        }
        seconds.insert(name.to_owned(), started.elapsed().as_secs_f64().into());
    }
    let all = failed.is_empty() && !passed.is_empty();
    let result = serde_json::json!({ "passed": passed, "failed": failed, "seconds": seconds });
    println!("RESULT {result}");
    Ok(all)
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, protocol] = arguments.as_slice() else {
        bail!("usage: clients redis-rs|fred 2|3");
    };
    let endpoint = Endpoint::told()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let all = runtime.block_on(async {
        let cases = match library.as_str() {
            "redis-rs" => {
                let mut cases = redis_sync::cases(&endpoint, protocol)?;
                cases.extend(redis_async::cases(&endpoint, protocol)?);
                cases
            }
            "fred" => fred_client::cases(&endpoint, protocol)?,
            other => bail!("no library {other}"),
        };
        run(cases).await
    })?;
    // A task that a failed case left behind must not hold the process.
    runtime.shutdown_background();
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
