//! The `redis` crate's synchronous connection.

#![expect(
    clippy::disallowed_methods,
    reason = "respool's rule for its own workers; here blocking calls are what is to be shown"
)]

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Result;
use redis::{
    Client, Commands, Connection, ErrorKind, PubSubCommands, RedisResult, Script, ServerErrorKind,
};

use crate::endpoint::Endpoint;
use crate::{CONDITION_DEADLINE, Case, case, same};

/// Lists the cases, for RESP2 or RESP3.
pub(crate) fn cases(endpoint: &Endpoint, protocol: &str) -> Result<Vec<Case>> {
    let client = endpoint.redis(0, protocol)?;
    Ok(vec![
        case!(sync_commands, client.clone()),
        case!(sync_pipelines, client.clone()),
        case!(sync_transactions, client.clone()),
        case!(sync_pubsub, client.clone()),
        case!(sync_blocking, client.clone()),
        case!(sync_scripts, client.clone()),
        case!(sync_databases, endpoint.clone(), protocol.to_owned()),
    ])
}

/// Does blocking work where it belongs, which is not on the runtime's own threads.
async fn apart<W: FnOnce() -> Result<()> + Send + 'static>(work: W) -> Result<()> {
    tokio::task::spawn_blocking(work).await?
}

async fn sync_commands(client: Client) -> Result<()> {
    apart(move || {
        let mut connection = client.get_connection()?;
        for n in 0..200 {
            let () = connection.set(format!("sync:{n}"), format!("value {n}"))?;
            same!(
                connection.get::<_, String>(format!("sync:{n}"))?,
                format!("value {n}")
            );
        }
        let large = "x".repeat(1_500_000);
        let () = connection.set("sync:large", &large)?;
        same!(connection.get::<_, String>("sync:large")? == large, true);
        same!(connection.get::<_, Option<String>>("sync:none")?, None);
        let () = connection.hset_multiple("sync:hash", &[("a", 1), ("b", 2)])?;
        let hash: HashMap<String, i64> = connection.hgetall("sync:hash")?;
        same!(
            hash,
            HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)])
        );
        let () = connection.zadd("sync:zset", "one", 1.5)?;
        same!(connection.zscore::<_, _, f64>("sync:zset", "one")?, 1.5);
        let wrong: RedisResult<i64> = connection.lpush("sync:1", "x");
        same!(
            wrong.map_err(|error| error.code().map(str::to_owned)),
            Err(Some("WRONGTYPE".to_owned()))
        );
        Ok(())
    })
    .await
}

async fn sync_pipelines(client: Client) -> Result<()> {
    apart(move || {
        let mut connection = client.get_connection()?;
        let mut pipe = redis::pipe();
        for n in 0..500 {
            pipe.set(format!("pipe:{n}"), n)
                .ignore()
                .get(format!("pipe:{n}"));
        }
        same!(
            pipe.query::<Vec<i64>>(&mut connection)?,
            (0..500).collect::<Vec<i64>>()
        );
        let counted: (i64, i64) = redis::pipe()
            .atomic()
            .incr("pipe:n", 1)
            .incr("pipe:n", 1)
            .query(&mut connection)?;
        same!(counted, (1, 2));
        let aborted: RedisResult<()> = redis::pipe()
            .atomic()
            .cmd("SET")
            .arg("pipe:n")
            .incr("pipe:n", 1)
            .query(&mut connection);
        same!(aborted.is_err(), true);
        same!(connection.get::<_, i64>("pipe:n")?, 2);
        Ok(())
    })
    .await
}

fn increment(connection: &mut Connection, conflicts: &mut usize) -> Result<()> {
    let key = "watch:counter";
    let mut tries = 0;
    let _: (i64,) = redis::transaction(connection, &[key], |connection, pipe| {
        tries += 1;
        let value: Option<i64> = connection.get(key)?;
        pipe.set(key, value.unwrap_or(0) + 1)
            .ignore()
            .get(key)
            .query(connection)
    })?;
    *conflicts += tries - 1;
    Ok(())
}

async fn sync_transactions(client: Client) -> Result<()> {
    let workers: Vec<_> = (0..6)
        .map(|_| {
            let client = client.clone();
            tokio::task::spawn_blocking(move || -> Result<usize> {
                let mut connection = client.get_connection()?;
                let mut conflicts = 0;
                for _ in 0..20 {
                    increment(&mut connection, &mut conflicts)?;
                }
                Ok(conflicts)
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    apart(move || {
        let (mut connection, mut other) = (client.get_connection()?, client.get_connection()?);
        same!(connection.get::<_, i64>("watch:counter")?, 120);
        // The one certain conflict: the first try finds the key changed by somebody else.
        let mut tries = 0;
        let (seen,): (i64,) =
            redis::transaction(&mut connection, &["watch:counter"], |connection, pipe| {
                tries += 1;
                if tries == 1 {
                    let () = other.set("watch:counter", 7)?;
                }
                pipe.get("watch:counter").query(connection)
            })?;
        same!((tries, seen), (2, 7));
        Ok(())
    })
    .await
}

fn subscribers_become(connection: &mut Connection, channel: &str, count: i64) -> Result<()> {
    let started = Instant::now();
    loop {
        let counted: (String, i64) = redis::cmd("PUBSUB")
            .arg(&["NUMSUB", channel])
            .query(connection)?;
        if counted.1 == count {
            return Ok(());
        }
        anyhow::ensure!(
            started.elapsed() < CONDITION_DEADLINE,
            "{channel} has {} subscribers, not {count}",
            counted.1
        );
        std::thread::yield_now();
    }
}

async fn sync_pubsub(client: Client) -> Result<()> {
    apart(move || {
        let (mut subscribed, mut publisher) = (client.get_connection()?, client.get_connection()?);
        let mut pubsub = subscribed.as_pubsub();
        pubsub.set_read_timeout(Some(Duration::from_secs(30)))?;
        pubsub.psubscribe("new?")?;
        pubsub.subscribe(&["news", "sport"])?;
        // Returns after the first confirmation in RESP2, before any in RESP3.
        subscribers_become(&mut publisher, "sport", 1)?;
        for n in 0..100 {
            same!(publisher.publish::<_, _, i64>("news", n)?, 2);
        }
        let (mut direct, mut matched) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            let message = pubsub.get_message()?;
            let value: i64 = message.get_payload()?;
            if message.from_pattern() {
                &mut matched
            } else {
                &mut direct
            }
            .push(value);
        }
        same!(direct, (0..100).collect::<Vec<i64>>());
        same!(matched, direct);
        pubsub.punsubscribe("new?")?;
        pubsub.unsubscribe("news")?;
        subscribers_become(&mut publisher, "news", 0)?;
        same!(publisher.publish::<_, _, i64>("news", "unheard")?, 0);
        same!(publisher.publish::<_, _, i64>("sport", "heard")?, 1);
        same!(pubsub.get_message()?.get_payload::<String>()?, "heard");
        drop(pubsub);
        same!(subscribed.set::<_, _, String>("pubsub:after", 1)?, "OK");
        let mut heard = Vec::new();
        let mut again = client.get_connection()?;
        let publishing = std::thread::spawn(move || -> RedisResult<()> {
            while publisher.publish::<_, _, i64>("closure", "message")? == 0 {
                std::thread::yield_now();
            }
            Ok(())
        });
        again.subscribe("closure", |message| {
            heard.push(message.get_payload::<String>());
            redis::ControlFlow::Break(())
        })?;
        same!(
            publishing.join().is_ok_and(|published| published.is_ok()),
            true
        );
        same!(
            heard.into_iter().collect::<RedisResult<Vec<_>>>()?,
            ["message"]
        );
        Ok(())
    })
    .await
}

async fn sync_blocking(client: Client) -> Result<()> {
    let consumer = client.clone();
    let taking = tokio::task::spawn_blocking(move || -> Result<Vec<i64>> {
        let mut connection = consumer.get_connection()?;
        (0..100)
            .map(|_| Ok(connection.blpop::<_, (String, i64)>("sync:list", 0.0)?.1))
            .collect()
    });
    apart(move || {
        let mut connection = client.get_connection()?;
        for n in 0..100 {
            let () = connection.rpush("sync:list", n)?;
        }
        same!(
            connection.blpop::<_, Option<(String, i64)>>("sync:nothing", 0.1)?,
            None
        );
        Ok(())
    })
    .await?;
    same!(taking.await??, (0..100).collect::<Vec<i64>>());
    Ok(())
}

async fn sync_scripts(client: Client) -> Result<()> {
    apart(move || {
        let mut connection = client.get_connection()?;
        let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        for n in 1..=20 {
            same!(
                script
                    .key("sync:sum")
                    .arg(2)
                    .invoke::<i64>(&mut connection)?,
                2 * n
            );
        }
        let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut connection)?;
        same!(
            script
                .key("sync:sum")
                .arg(1)
                .invoke::<i64>(&mut connection)?,
            41
        );
        let missing: RedisResult<()> = redis::cmd("EVALSHA")
            .arg("0".repeat(40))
            .arg(0)
            .query(&mut connection);
        same!(
            missing.map_err(|error| error.kind()),
            Err(ErrorKind::Server(ServerErrorKind::NoScript))
        );
        Ok(())
    })
    .await
}

async fn sync_databases(endpoint: Endpoint, protocol: String) -> Result<()> {
    apart(move || {
        let mut connections = (0..16)
            .map(|db| endpoint.redis(db, &protocol)?.get_connection())
            .collect::<RedisResult<Vec<_>>>()?;
        for round in 0..20 {
            for (db, connection) in connections.iter_mut().enumerate() {
                let () = connection.set("db:key", format!("{db} in round {round}"))?;
            }
            for (db, connection) in connections.iter_mut().enumerate() {
                same!(
                    connection.get::<_, String>("db:key")?,
                    format!("{db} in round {round}")
                );
            }
        }
        Ok(())
    })
    .await
}
