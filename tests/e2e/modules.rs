//! Commands of modules: what the server has is known again when it changes, and what waits never stands on a shared connection.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{
    Redis, Respool, ScriptedAct, ScriptedServer, TESTED_SERVER, Value, encode, eventually,
};

/// A module with a command that waits until another one is called, and one that answers at once.
const SOURCE: &str = r#"
#include <stddef.h>
#include <string.h>
#define REDISMODULE_OK 0
#define REDISMODULE_ERR 1
typedef int (*CmdFunc)(void *ctx, void **argv, int argc);
static int (*GetApi)(const char *, void *);
static int (*SetModuleAttribs)(void *, const char *, int, int);
static int (*CreateCommand)(void *, const char *, CmdFunc, const char *, int, int, int);
static int (*ReplyWithLongLong)(void *, long long);
static int (*ReplyWithSimpleString)(void *, const char *);
static void *(*BlockClient)(void *, CmdFunc, CmdFunc, void (*)(void *, void *), long long);
static int (*UnblockClient)(void *, void *);
static void *waits[64];
static int waiting;
static int released(void *ctx, void **argv, int argc) { return ReplyWithSimpleString(ctx, "RELEASED"); }
static int never(void *ctx, void **argv, int argc) { return ReplyWithSimpleString(ctx, "TIMEOUT"); }
static void forget(void *ctx, void *data) {}
static int hold(void *ctx, void **argv, int argc) {
    if (waiting < 64) waits[waiting++] = BlockClient(ctx, released, never, forget, 0);
    return REDISMODULE_OK;
}
static int release(void *ctx, void **argv, int argc) {
    int count = waiting;
    while (waiting) UnblockClient(waits[--waiting], NULL);
    return ReplyWithLongLong(ctx, count);
}
static int quick(void *ctx, void **argv, int argc) { return ReplyWithLongLong(ctx, 7); }
int RedisModule_OnLoad(void *ctx, void **argv, int argc) {
    GetApi = ((void **)ctx)[0];
    GetApi("RedisModule_SetModuleAttribs", &SetModuleAttribs);
    GetApi("RedisModule_CreateCommand", &CreateCommand);
    GetApi("RedisModule_ReplyWithLongLong", &ReplyWithLongLong);
    GetApi("RedisModule_ReplyWithSimpleString", &ReplyWithSimpleString);
    GetApi("RedisModule_BlockClient", &BlockClient);
    GetApi("RedisModule_UnblockClient", &UnblockClient);
    SetModuleAttribs(ctx, "canary", 1, 1);
    if (CreateCommand(ctx, "canary.hold", hold, "write blocking", 0, 0, 0)
        && CreateCommand(ctx, "canary.hold", hold, "write", 0, 0, 0)) return REDISMODULE_ERR;
    CreateCommand(ctx, "canary.release", release, "write", 0, 0, 0);
    CreateCommand(ctx, "canary.quick", quick, "readonly", 0, 0, 0);
    return REDISMODULE_OK;
}
int RedisModule_OnUnload(void *ctx) { return REDISMODULE_OK; }
"#;

/// Holds the module, compiled, and its folder.
struct CompiledModule {
    dir: TempDir,
}

impl CompiledModule {
    fn compile() -> Self {
        let module = Self {
            dir: tempfile::tempdir().expect("a directory"),
        };
        let source = module.dir.path().join("canary.c");
        std::fs::write(&source, SOURCE).expect("the source is written");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-w", "-o"])
            .arg(module.path())
            .arg(&source)
            .status()
            .expect("cc starts");
        assert!(compiled.success());
        module
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("canary.so")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of letters")
}

/// Starts a server that loads modules while it runs.
fn server() -> Redis {
    start(&[])
}

fn start(options: &[&str]) -> Redis {
    let allowed: &[&str] = match TESTED_SERVER.is_7_or_later() {
        true => &["--enable-module-command", "local"],
        false => &[],
    };
    Redis::start(&[options, allowed].concat())
}

/// Waits until the server's list is known as it is: `canary.quick` then shares a connection where it is known not to wait.
fn until_known(respool: &Respool) {
    let mut client = respool.client();
    eventually(
        || {
            let before = (respool.pins("unlisted"), respool.pins("learned"));
            assert_eq!(client.cmd(&["CANARY.QUICK"]), Value::Int(7));
            let after = (respool.pins("unlisted"), respool.pins("learned"));
            after.0 == before.0 && (after.1 == before.1) == TESTED_SERVER.is_7_or_later()
        },
        "the module's commands are known",
    );
}

/// Checks that whoever waits in the module holds up nobody, and is released.
fn waits_alone(respool: &Respool) {
    let before = respool.pins("learned");
    let mut waiting = respool.client();
    waiting.send(encode(&["CANARY.HOLD"]));
    let mut other = respool.client();
    eventually(
        || respool.pins("learned") == before + 1.0,
        "a connection of its own",
    );
    for _ in 0..20 {
        assert_eq!(other.cmd(&["SET", "k", "v"]), Value::ok());
    }
    eventually(
        || other.cmd(&["CANARY.RELEASE"]) == Value::Int(1),
        "the wait is at the server",
    );
    assert_eq!(waiting.reply(), Value::simple("RELEASED"));
}

/// Starts a respool with one shared connection.
fn respool(redis: &Redis, health_interval: &str) -> Respool {
    Respool::with(redis)
        .upstream(&format!(
            "max_connections = 4\nshared_connections = 1\nhealth_interval = \"{health_interval}\""
        ))
        .start()
}

#[test]
fn a_module_that_a_client_loads_is_known() {
    let module = CompiledModule::compile();
    let redis = server();
    let respool = respool(&redis, "0s");
    let mut client = respool.client();
    let unknown = client.cmd(&["CANARY.QUICK"]);
    assert!(unknown.text().starts_with("ERR unknown command"));
    let path = module.path();
    let loaded = client.cmd(&["MODULE", "LOAD", text(&path)]);
    assert_eq!(loaded, Value::ok());
    until_known(&respool);
    waits_alone(&respool);
    assert_eq!(client.cmd(&["MODULE", "UNLOAD", "canary"]), Value::ok());
    let unknown = client.cmd(&["CANARY.QUICK"]);
    assert!(unknown.text().starts_with("ERR unknown command"));
    eventually(
        || {
            let before = respool.pins("unlisted");
            client.cmd(&["CANARY.QUICK"]);
            respool.pins("unlisted") > before
        },
        "its commands are known to be gone",
    );
}

#[test]
fn a_module_that_somebody_else_loads_is_known_by_its_first_answer() {
    let module = CompiledModule::compile();
    let redis = server();
    let respool = respool(&redis, "0s");
    respool.client().ping();
    let path = module.path();
    assert_eq!(redis.cmd(&["MODULE", "LOAD", text(&path)]), Value::ok());
    until_known(&respool);
    waits_alone(&respool);
}

#[test]
fn a_module_that_somebody_else_loads_is_known_by_the_health_check() {
    let module = CompiledModule::compile();
    let redis = server();
    let respool = respool(&redis, "100ms");
    let mut client = respool.client();
    eventually(
        || respool.metric_or_zero("respool_server_connected_clients") > 0.0,
        "the server was asked how it is",
    );
    let path = module.path();
    assert_eq!(redis.cmd(&["MODULE", "LOAD", text(&path)]), Value::ok());
    eventually(
        || redis.calls("command") >= 2,
        "its commands were read again",
    );
    let unlisted = respool.pins("unlisted");
    waits_alone(&respool);
    assert_eq!(client.cmd(&["CANARY.QUICK"]), Value::Int(7));
    assert_eq!(respool.pins("unlisted"), unlisted, "they are known");
}

#[test]
fn a_server_that_comes_back_with_a_module_is_known() {
    let module = CompiledModule::compile();
    let more = module.dir.path().join("more.conf");
    std::fs::write(&more, "").expect("a file of settings");
    let redis = start(&["--include", text(&more)]);
    let respool = respool(&redis, "0s");
    let mut client = respool.client();
    client.ping();
    let load = format!("loadmodule {}\n", text(&module.path()));
    std::fs::write(&more, load).expect("a file of settings");
    redis.kill_hard();
    redis.restart();
    eventually(
        || {
            client
                .try_cmd(&["PING"])
                .is_some_and(|pong| !pong.is_error())
        },
        "the server is back",
    );
    eventually(
        || redis.calls("command") >= 1,
        "its commands were read again",
    );
    let unlisted = respool.pins("unlisted");
    waits_alone(&respool);
    assert_eq!(client.cmd(&["CANARY.QUICK"]), Value::Int(7));
    assert_eq!(respool.pins("unlisted"), unlisted, "they are known");
}

/// Starts a server whose list is empty, and which knows every command all the same.
fn knows_more_than_it_lists() -> (
    ScriptedServer,
    std::sync::Arc<std::sync::atomic::AtomicUsize>,
) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let lists = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lists);
    let server = ScriptedServer::start(move |words| match words[0].to_lowercase().as_str() {
        "command" => {
            counted.fetch_add(1, Ordering::Relaxed);
            ScriptedAct::Say("*0\r\n")
        }
        _ => ScriptedAct::Usual,
    });
    (server, lists)
}

#[test]
fn clients_that_use_what_is_not_listed_do_not_have_it_read_without_end() {
    use std::sync::atomic::Ordering;
    let (server, lists) = knows_more_than_it_lists();
    let respool = Respool::before(server.addr()).start();
    let mut client = respool.client();
    for _ in 0..500 {
        client.cmd(&["nobody.lists.it"]);
    }
    // Once when it connected, and again after 2, 4, 8... seconds.
    assert!(lists.load(Ordering::Relaxed) <= 6, "{lists:?}");
}
