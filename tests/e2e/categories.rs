//! `deny_commands` by categories that only the server knows: those of modules.

use crate::harness::{Respool, ScriptedAct, ScriptedServer, Value, eventually};

/// Is what a server answers to `COMMAND` that has a module.
const COMMANDS: &str = "*2\r\n\
    *7\r\n$9\r\nft.search\r\n:-3\r\n*1\r\n+readonly\r\n:0\r\n:0\r\n:0\r\n*2\r\n+@read\r\n+@search\r\n\
    *7\r\n$8\r\njson.set\r\n:-3\r\n*1\r\n+write\r\n:0\r\n:0\r\n:0\r\n*2\r\n+@write\r\n+@json\r\n";

fn denied(name: &str) -> Value {
    Value::error(&format!(
        "NOPERM this user has no permissions to run the '{name}' command"
    ))
}

#[test]
fn categories_of_modules_are_denied_as_the_server_tells_them() {
    let server = ScriptedServer::start(|words| match words[0].as_str() {
        "command" => ScriptedAct::Say(COMMANDS),
        _ => ScriptedAct::Usual,
    });
    let group =
        "[[group]]\nname = \"default\"\ndeny_commands = [\"@search\", \"@write\", \"@bloom\"]";
    let respool = Respool::before(server.addr()).section(group).start();
    let mut client = respool.client();
    let mut asked = |words: &[&str]| client.cmd(words);
    eventually(
        || asked(&["FT.SEARCH", "index", "x"]) == denied("ft.search"),
        "the server has said what is in it",
    );
    assert_eq!(
        asked(&["json.set", "k", "$"]),
        denied("json.set"),
        "modules write, too"
    );
    assert_eq!(asked(&["SET", "k", "v"]), denied("set"));
    assert_eq!(asked(&["json.get", "k"]), Value::ok(), "nobody lists it");
    let warning = "the server has no command in @bloom";
    assert!(respool.status().contains(warning));
    assert!(!respool.status().contains("in @search") && !respool.status().contains("in @write"));
}
