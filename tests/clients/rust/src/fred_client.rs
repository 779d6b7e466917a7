//! fred: pipelines, transactions, subscribers, scripts, pools.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;

use anyhow::Result;
use fred::clients::SubscriberClient;
use fred::prelude::*;
use fred::types::scripts::Script;
use fred::types::{MessageKind, RespVersion};
use futures_util::future::try_join_all;

use crate::endpoint::Endpoint;
use crate::{Case, case, same, until};

/// Lists the cases, for RESP2 or RESP3.
pub(crate) fn cases(endpoint: &Endpoint, protocol: &str) -> Result<Vec<Case>> {
    let version = if protocol == "3" {
        RespVersion::RESP3
    } else {
        RespVersion::RESP2
    };
    let mut config = endpoint.fred()?;
    config.version = version;
    let mut cases = vec![
        case!(commands, config.clone()),
        case!(pipelines, config.clone()),
        case!(transactions, config.clone()),
        case!(watched, config.clone()),
        case!(subscribers, config.clone()),
        case!(blocking, config.clone()),
        case!(scripts, config.clone()),
        case!(pools, config.clone()),
        case!(reconnecting, config.clone()),
    ];
    if protocol == "3" {
        cases.push(case!(commands_while_subscribed, config));
    }
    Ok(cases)
}

async fn connect(config: &Config) -> Result<Client> {
    let mut builder = Builder::from_config(config.clone());
    builder.set_policy(ReconnectPolicy::new_constant(0, 20));
    let client = builder.build()?;
    client.init().await?;
    Ok(client)
}

async fn commands(config: Config) -> Result<()> {
    let client = connect(&config).await?;
    let values = try_join_all((0..500).map(|n| {
        let client = client.clone();
        async move {
            let () = client
                .set(format!("fred:{n}"), n, None, None, false)
                .await?;
            client.get::<i64, _>(format!("fred:{n}")).await
        }
    }))
    .await?;
    same!(values, (0..500).collect::<Vec<i64>>());
    same!(client.get::<Option<String>, _>("fred:none").await?, None);
    let () = client.hset("fred:hash", [("a", 1), ("b", 2)]).await?;
    let hash: BTreeMap<String, i64> = client.hgetall("fred:hash").await?;
    same!(
        hash.into_iter().collect::<Vec<_>>(),
        [("a".to_owned(), 1), ("b".to_owned(), 2)]
    );
    let wrong: Result<i64, Error> = client.lpush("fred:1", "x").await;
    same!(
        wrong.map_err(|error| error.details().starts_with("WRONGTYPE")),
        Err(true)
    );
    client.quit().await?;
    Ok(())
}

async fn pipelines(config: Config) -> Result<()> {
    let client = connect(&config).await?;
    let pipeline = client.pipeline();
    for n in 0..300 {
        let () = pipeline
            .set(format!("pipe:{n}"), n, None, None, false)
            .await?;
    }
    let set: Vec<String> = pipeline.all().await?;
    same!(set, vec!["OK".to_owned(); 300]);
    let pipeline = client.pipeline();
    for n in 0..300 {
        let () = pipeline.get(format!("pipe:{n}")).await?;
    }
    same!(
        pipeline.all::<Vec<i64>>().await?,
        (0..300).collect::<Vec<i64>>()
    );
    client.quit().await?;
    Ok(())
}

async fn transactions(config: Config) -> Result<()> {
    let client = connect(&config).await?;
    let results = try_join_all((0..50).map(|_| {
        let client = client.clone();
        async move {
            let transaction = client.multi();
            let () = transaction.incr("multi:n").await?;
            let () = transaction.incr("multi:n").await?;
            transaction.exec::<(i64, i64)>(true).await
        }
    }))
    .await?;
    for (first, second) in results {
        same!((second, first % 2), (first + 1, 1));
    }
    same!(client.get::<i64, _>("multi:n").await?, 100);
    client.quit().await?;
    Ok(())
}

async fn watched(config: Config) -> Result<()> {
    let (client, other) = (connect(&config).await?, connect(&config).await?);
    let () = client.set("watch:key", 1, None, None, false).await?;
    let attempt = |interfere: bool| {
        let (client, other) = (client.clone(), other.clone());
        async move {
            let () = client.watch("watch:key").await?;
            if interfere {
                let () = other.set("watch:key", 5, None, None, false).await?;
            }
            let transaction = client.multi();
            let () = transaction.incr("watch:key").await?;
            transaction.exec::<Option<Vec<i64>>>(true).await
        }
    };
    // fred leaves it to the caller what a null EXEC means.
    same!(attempt(true).await?, None);
    same!(other.get::<i64, _>("watch:key").await?, 5);
    same!(attempt(false).await?, Some(vec![6]));
    client.quit().await?;
    other.quit().await?;
    Ok(())
}

async fn subscriber(config: &Config) -> Result<SubscriberClient> {
    let mut builder = Builder::from_config(config.clone());
    // Messages that nobody has read yet; by default 32, and what comes past it is dropped.
    builder.with_performance_config(|performance| performance.broadcast_channel_capacity = 1024);
    let subscriber = builder.build_subscriber_client()?;
    subscriber.init().await?;
    Ok(subscriber)
}

/// Waits until the server has confirmed: fred's calls to subscribe and unsubscribe may return before that.
async fn subscribers_become(client: &Client, channel: &'static str, count: i64) -> Result<()> {
    until("as many subscribers as there should be", || async {
        let counts: HashMap<String, i64> = client.pubsub_numsub(channel).await?;
        Ok(counts.get(channel) == Some(&count))
    })
    .await
}

async fn subscribers(config: Config) -> Result<()> {
    let publisher = connect(&config).await?;
    let mut listening = Vec::new();
    for n in 0..8 {
        let subscriber = subscriber(&config).await?;
        let messages = subscriber.message_rx();
        // In this order, so that whoever is counted as subscriber of the channel has its other subscriptions too.
        subscriber.psubscribe("every*").await?;
        subscriber.subscribe(format!("only:{n}")).await?;
        subscriber.subscribe("everybody").await?;
        listening.push((subscriber, messages));
    }
    subscribers_become(&publisher, "everybody", 8).await?;
    for n in 0..20 {
        same!(
            publisher.publish::<i64, _, _>("everybody", n).await? > 0,
            true
        );
    }
    for n in 0..8 {
        same!(
            publisher
                .publish::<i64, _, _>(format!("only:{n}"), 100 + n)
                .await?,
            1
        );
    }
    for (n, (subscriber, mut messages)) in listening.into_iter().enumerate() {
        let (mut direct, mut matched) = (Vec::new(), Vec::new());
        while direct.len() + matched.len() < 41 {
            let message = messages.recv().await?;
            let pattern = matches!(message.kind, MessageKind::PMessage);
            if pattern { &mut matched } else { &mut direct }.push(message.value.convert::<i64>()?);
        }
        same!(matched, (0..20).collect::<Vec<i64>>());
        same!(
            direct,
            (0..20)
                .chain([100 + i64::try_from(n)?])
                .collect::<Vec<i64>>()
        );
        subscriber.unsubscribe_all().await?;
        subscriber.quit().await?;
    }
    subscribers_become(&publisher, "everybody", 0).await?;
    publisher.quit().await?;
    Ok(())
}

async fn blocking(config: Config) -> Result<()> {
    let (consumer, producer) = (connect(&config).await?, connect(&config).await?);
    let taking = tokio::spawn(async move {
        let mut taken = Vec::new();
        for _ in 0..50 {
            taken.push(
                consumer
                    .blpop::<(String, i64), _>("fred:list", 0.0)
                    .await?
                    .1,
            );
        }
        consumer.quit().await?;
        Ok::<_, Error>(taken)
    });
    for n in 0..50 {
        let () = producer.rpush("fred:list", n).await?;
    }
    same!(taking.await??, (0..50).collect::<Vec<i64>>());
    // fred turns the null of a blocking call into an error of this kind.
    let nothing: Result<(String, i64), Error> = producer.blpop("fred:nothing", 0.1).await;
    same!(
        nothing.map_err(|error| error.kind().clone()),
        Err(ErrorKind::Timeout)
    );
    producer.quit().await?;
    Ok(())
}

async fn scripts(config: Config) -> Result<()> {
    let client = connect(&config).await?;
    let script = Script::from_lua("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    for n in 1..=20 {
        let sum: i64 = script
            .evalsha_with_reload(&client, vec!["fred:sum"], vec![2])
            .await?;
        same!(sum, 2 * n);
    }
    client.quit().await?;
    Ok(())
}

async fn pools(config: Config) -> Result<()> {
    let pool = Builder::from_config(config).build_pool(10)?;
    pool.init().await?;
    let values = try_join_all((0..300).map(|n| {
        let pool = pool.clone();
        async move {
            let () = pool.set(format!("pool:{n}"), n, None, None, false).await?;
            pool.get::<i64, _>(format!("pool:{n}")).await
        }
    }))
    .await?;
    same!(values, (0..300).collect::<Vec<i64>>());
    pool.quit().await?;
    Ok(())
}

async fn reconnecting(config: Config) -> Result<()> {
    let (client, other) = (connect(&config).await?, connect(&config).await?);
    let () = client
        .set("reconnect:key", "before", None, None, false)
        .await?;
    let mut reconnected = client.reconnect_rx();
    let id: i64 = client.client_id().await?;
    let kill = fred::types::client::ClientKillFilter::ID(id.to_string());
    same!(other.client_kill::<i64>(vec![kill]).await?, 1);
    reconnected.recv().await?;
    same!(client.get::<String, _>("reconnect:key").await?, "before");
    client.quit().await?;
    other.quit().await?;
    Ok(())
}

async fn commands_while_subscribed(config: Config) -> Result<()> {
    let (subscriber, publisher) = (subscriber(&config).await?, connect(&config).await?);
    let mut messages = subscriber.message_rx();
    subscriber.subscribe("mixed").await?;
    subscribers_become(&publisher, "mixed", 1).await?;
    for n in 0..50_i64 {
        let () = subscriber.set("mixed:key", n, None, None, false).await?;
        same!(subscriber.get::<i64, _>("mixed:key").await?, n);
        same!(publisher.publish::<i64, _, _>("mixed", n).await?, 1);
    }
    let mut received = Vec::new();
    while received.len() < 50 {
        received.push(messages.recv().await?.value.convert::<i64>()?);
    }
    same!(received, (0..50).collect::<Vec<i64>>());
    subscriber.quit().await?;
    publisher.quit().await?;
    Ok(())
}
