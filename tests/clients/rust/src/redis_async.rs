//! The `redis` crate's multiplexed connection, connection manager and asynchronous subscriptions.

use std::future::Future;

use anyhow::Result;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use redis::{AsyncCommands, AsyncConnectionConfig, Client, PushKind};

use crate::endpoint::Endpoint;
use crate::{Case, case, same, until};

/// Lists the cases, for RESP2 or RESP3.
pub(crate) fn cases(endpoint: &Endpoint, protocol: &str) -> Result<Vec<Case>> {
    let client = endpoint.redis(0, protocol)?;
    let mut cases = vec![
        case!(multiplexed_commands, client.clone()),
        case!(multiplexed_transactions, client.clone()),
        case!(many_connections, client.clone()),
        case!(connection_manager, client.clone()),
        case!(async_pubsub, client.clone()),
        case!(many_subscribers, client.clone()),
    ];
    if protocol == "3" {
        cases.push(case!(pushed_messages, client));
    }
    Ok(cases)
}

async fn multiplexed_commands(client: Client) -> Result<()> {
    let connection = client.get_multiplexed_async_connection().await?;
    let tasks = (0..500).map(|n| {
        let mut connection = connection.clone();
        tokio::spawn(async move {
            let () = connection.set(format!("multiplexed:{n}"), n).await?;
            connection.get::<_, i64>(format!("multiplexed:{n}")).await
        })
    });
    for (n, value) in try_join_all(tasks).await?.into_iter().enumerate() {
        same!(value?, i64::try_from(n)?);
    }
    Ok(())
}

async fn multiplexed_transactions(client: Client) -> Result<()> {
    // All tasks share one connection: whole transactions, none inside another.
    let connection = client.get_multiplexed_async_connection().await?;
    let tasks = (0..100).map(|_| {
        let mut connection = connection.clone();
        async move {
            let both: (i64, i64) = redis::pipe()
                .atomic()
                .incr("shared:n", 1)
                .incr("shared:n", 1)
                .query_async(&mut connection)
                .await?;
            redis::RedisResult::Ok(both)
        }
    });
    for (first, second) in try_join_all(tasks).await? {
        same!(second, first + 1);
        same!(first % 2, 1);
    }
    let mut connection = connection;
    same!(connection.get::<_, i64>("shared:n").await?, 200);
    Ok(())
}

async fn many_connections(client: Client) -> Result<()> {
    let work = (0..40).map(|n| {
        let client = client.clone();
        async move {
            let mut connection = client.get_multiplexed_async_connection().await?;
            for round in 0..20 {
                let () = connection.set(format!("own:{n}"), round).await?;
                let value: i64 = connection.get(format!("own:{n}")).await?;
                anyhow::ensure!(value == round, "{value} in round {round}");
            }
            Ok(())
        }
    });
    try_join_all(work).await?;
    Ok(())
}

async fn connection_manager(client: Client) -> Result<()> {
    let mut manager = client.get_connection_manager().await?;
    let mut other = client.get_multiplexed_async_connection().await?;
    let () = manager.set("manager:key", "before").await?;
    let id: i64 = redis::cmd("CLIENT")
        .arg("ID")
        .query_async(&mut manager)
        .await?;
    let killed: i64 = redis::cmd("CLIENT")
        .arg(&["KILL", "ID"])
        .arg(id)
        .query_async(&mut other)
        .await?;
    same!(killed, 1);
    // The command that finds the connection lost fails, and makes the manager reconnect.
    let back = manager.clone();
    until("the manager has reconnected", || {
        let mut manager = back.clone();
        async move {
            Ok(manager
                .get::<_, String>("manager:key")
                .await
                .is_ok_and(|value| value == "before"))
        }
    })
    .await
}

async fn async_pubsub(client: Client) -> Result<()> {
    let mut pubsub = client.get_async_pubsub().await?;
    let mut publisher = client.get_multiplexed_async_connection().await?;
    pubsub.subscribe("news").await?;
    pubsub.psubscribe("new?").await?;
    for n in 0..100 {
        same!(publisher.publish::<_, _, i64>("news", n).await?, 2);
    }
    let (mut direct, mut matched) = (Vec::new(), Vec::new());
    let mut messages = pubsub.on_message();
    while direct.len() < 100 || matched.len() < 100 {
        let Some(message) = messages.next().await else {
            anyhow::bail!("the stream of messages ended");
        };
        let value: i64 = message.get_payload()?;
        if message.from_pattern() {
            &mut matched
        } else {
            &mut direct
        }
        .push(value);
    }
    drop(messages);
    same!(direct, (0..100).collect::<Vec<i64>>());
    same!(matched, direct);
    pubsub.punsubscribe("new?").await?;
    pubsub.unsubscribe("news").await?;
    same!(publisher.publish::<_, _, i64>("news", "unheard").await?, 0);
    Ok(())
}

async fn many_subscribers(client: Client) -> Result<()> {
    let mut publisher = client.get_multiplexed_async_connection().await?;
    let subscribers = try_join_all((0..12).map(|n| {
        let client = client.clone();
        async move {
            let mut pubsub = client.get_async_pubsub().await?;
            pubsub
                .subscribe(&["everybody".to_owned(), format!("only:{n}")])
                .await?;
            redis::RedisResult::Ok(pubsub)
        }
    }))
    .await?;
    let counts: (String, i64) = redis::cmd("PUBSUB")
        .arg(&["NUMSUB", "everybody"])
        .query_async(&mut publisher)
        .await?;
    same!(counts.1, 12);
    same!(
        publisher.publish::<_, _, i64>("everybody", "hello").await? > 0,
        true
    );
    for n in 0..12 {
        same!(
            publisher
                .publish::<_, _, i64>(format!("only:{n}"), format!("to {n}"))
                .await?,
            1
        );
    }
    for (n, mut pubsub) in subscribers.into_iter().enumerate() {
        let messages: Vec<_> = pubsub.on_message().take(2).collect().await;
        let texts = messages
            .iter()
            .map(redis::Msg::get_payload)
            .collect::<redis::RedisResult<Vec<String>>>()?;
        same!(texts, ["hello".to_owned(), format!("to {n}")]);
    }
    Ok(())
}

async fn pushed_messages(client: Client) -> Result<()> {
    // RESP3: messages come on the connection that goes on sending commands.
    let (sender, mut pushes) = tokio::sync::broadcast::channel(1000);
    let config = AsyncConnectionConfig::new().set_push_sender(sender);
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let mut publisher = client.get_multiplexed_async_connection().await?;
    connection.subscribe("pushed").await?;
    for n in 0..50_i64 {
        let () = connection.set("pushed:key", n).await?;
        same!(connection.get::<_, i64>("pushed:key").await?, n);
        same!(publisher.publish::<_, _, i64>("pushed", n).await?, 1);
    }
    let mut received = Vec::new();
    while received.len() < 50 {
        let push = pushes.recv().await?;
        if push.kind == PushKind::Message {
            received.push(redis::from_redis_value::<i64>(push.data[1].clone())?);
        }
    }
    same!(received, (0..50).collect::<Vec<i64>>());
    connection.unsubscribe("pushed").await?;
    same!(
        publisher.publish::<_, _, i64>("pushed", "unheard").await?,
        0
    );
    Ok(())
}
