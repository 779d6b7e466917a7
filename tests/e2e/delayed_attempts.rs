//! Attempts to authenticate that wait for their turn, because their address has shown wrong passwords.

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

const DELAYED: &str = "respool_bounds_reached_total{bound=\"auth_delayed\"}";

const REFUSED: &str = "respool_bounds_reached_total{bound=\"auth_waiting\"}";

/// Clients of this address wait for most of a minute between two of their attempts.
const SLOWED: &str = "127.0.0.3";

/// The password that the server takes.
const RIGHT: &str = "right-314";

/// Connects clients from [`SLOWED`], so many of each worker, that show wrong passwords at once. Twelve of each worker are on their
/// way before anything is known of any of them, and are told; of the rest a hundred may wait.
fn slowed_by(
    redis: &Redis,
    respool: &Respool,
    (workers, each): (usize, usize),
    shows: impl Fn(usize) -> Vec<u8>,
) -> Vec<Client> {
    redis.pause();
    let mut wrong: Vec<Client> = (0..each * workers)
        .map(|_| respool.client_from(SLOWED))
        .collect();
    for (number, client) in wrong.iter_mut().enumerate() {
        client.send(shows(number));
    }
    let waiting = (each - 12).min(100) * workers;
    let delayed = || respool.metric_or_zero("respool_bounds_reached_total{bound=\"auth_delayed\"}");
    eventually(|| delayed() >= waiting as f64, "the rest wait");
    redis.resume();
    let mut told = || {
        let told = wrong.iter_mut().map(Client::has_reply);
        told.filter(|told| *told).count()
    };
    eventually(|| told() >= 12 * workers, "twelve of each worker are told");
    wrong
}

#[test]
fn who_waits_with_what_another_is_served_by_since_then_waits_no_longer() {
    let redis = Redis::start(&[]);
    let locked = ["CONFIG", "SET", "requirepass", RIGHT];
    assert_eq!(redis.cmd(&locked), Value::ok());
    for workers in [1, 2] {
        let respool = Respool::with(&redis)
            .top(&format!("workers = {workers}"))
            .upstream(&format!("password = \"{RIGHT}\""))
            .section(
                "[auth]\nmode = \"passthrough\"\nfree_failures = 0\nmax_failure_delay = \"1h\"\nmax_attempts_in_flight = 12",
            )
            .start();
        respool.client_from("127.0.0.2").cmd(&["PING"]);
        let _wrong = slowed_by(&redis, &respool, (workers, 20), |number| {
            encode(&["AUTH", &format!("guess-{number}")])
        });
        let delayed =
            || respool.metric_or_zero("respool_bounds_reached_total{bound=\"auth_delayed\"}");
        let mut right: Vec<Client> = (0..54).map(|_| respool.client_from(SLOWED)).collect();
        for client in &mut right {
            client.send(encode(&["AUTH", RIGHT]));
        }
        eventually(|| delayed() >= (8 * workers + 54) as f64, "they all wait");
        let mut other = respool.client_from("127.0.0.2");
        assert_eq!(other.cmd(&["AUTH", RIGHT]), Value::ok());
        // Nobody's turn comes for most of a minute, and only one's then.
        eventually(
            || right.iter_mut().all(Client::has_reply),
            "who shows the right one is answered",
        );
        for client in &mut right {
            assert_eq!(client.reply(), Value::ok());
            client.ping();
        }
        let log = respool.log_text();
        let is_told = [RIGHT, "guess-"].map(|word| log.contains(word));
        assert_eq!(is_told, [false; 2], "what is shown is told nowhere");
    }
}

/// Starts a respool whose clients from [`SLOWED`] have shown so many wrong passwords that nobody's turn comes for most of a minute,
/// and those of them that wait, as many as may.
fn with_many_waiting(redis: &Redis, workers: usize) -> (Respool, Vec<Client>) {
    let respool = Respool::with(redis)
        .top(&format!("workers = {workers}"))
        .section(
            "[auth]\nfree_failures = 0\nmax_failure_delay = \"1h\"\nmax_attempts_in_flight = 12",
        )
        .start();
    respool.client_from("127.0.0.2").cmd(&["PING"]);
    let wrong = slowed_by(redis, &respool, (workers, 130), |number| {
        encode(&["AUTH", "app", &format!("old-{number}")])
    });
    (respool, wrong)
}

#[test]
fn what_others_are_served_by_holds_up_nobody_of_an_address_where_many_wait() {
    let redis = Redis::start(&[]);
    let app = [
        "ACL",
        "SETUSER",
        "app",
        "on",
        &format!(">{RIGHT}"),
        "+@all",
        "~*",
    ];
    assert_eq!(redis.cmd(&app), Value::ok());
    for workers in [1, 2] {
        let (respool, _wrong) = with_many_waiting(&redis, workers);
        let mut served = respool.client_from("127.0.0.2");
        assert_eq!(served.cmd(&["AUTH", "app", RIGHT]), Value::ok());
        // Another address, whose user takes any password, is served by something new again and again; and one comes and goes.
        let mut busy = respool.client_from("127.0.0.9");
        for number in 0..60 {
            let any = format!("any-{number}");
            assert_eq!(busy.cmd(&["AUTH", "default", &any]), Value::ok());
            let mut other = respool.client_from("127.0.0.8");
            assert_eq!(other.cmd(&["AUTH", "default", "same"]), Value::ok());
            drop(other);
            let mut newcomer = respool.client_from(SLOWED);
            assert_eq!(
                newcomer.cmd(&["AUTH", "app", RIGHT]),
                Value::ok(),
                "{number}"
            );
        }
    }
}

#[test]
fn who_waits_is_looked_at_again_when_a_reload_knows_its_password() {
    let redis = Redis::start(&[]);
    let with = |passwords: &str| {
        Respool::with(&redis)
            .top("workers = 1")
            .section("[auth]\nmode = \"proxy\"\nfree_failures = 0\nmax_failure_delay = \"1h\"")
            .section(&format!("[[auth.user]]\nname = \"app\"\n{passwords}"))
    };
    let respool = with("password = \"old\"").start();
    let mut clients: Vec<Client> = (0..90).map(|_| respool.client_from(SLOWED)).collect();
    for client in &mut clients {
        client.send(encode(&["AUTH", "app", "new"]));
    }
    let delayed = || respool.metric_or_zero("respool_bounds_reached_total{bound=\"auth_delayed\"}");
    eventually(|| delayed() >= 80.0, "nearly all wait");
    respool.reload(&with("password = \"new\""));
    // In turn it would take minutes.
    eventually(
        || clients.iter_mut().all(Client::has_reply),
        "all are answered",
    );
    let taken = clients
        .iter_mut()
        .map(|client| client.reply() == Value::ok());
    let taken = taken.filter(|taken| *taken).count();
    assert!(taken >= 60, "{taken}");
}

/// Connects so many clients of [`SLOWED`] that have shown something nobody has looked at yet, and `but` that have been answered.
fn waiting_of_slowed(respool: &Respool, count: usize, but: usize) -> Vec<Client> {
    let before = respool.metric_or_zero(DELAYED);
    let mut clients: Vec<Client> = (0..count).map(|_| respool.client_from(SLOWED)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(encode(&[
            "AUTH",
            "app",
            &format!("{}-{number}", "x".repeat(8_000)),
        ]));
    }
    eventually(
        || respool.metric_or_zero(DELAYED) >= before + (count - but) as f64,
        "they wait",
    );
    clients
}

#[test]
fn who_has_left_gives_up_its_turn_to_those_who_are_there() {
    let redis = Redis::start(&[]);
    let with = |passwords: &str| {
        Respool::with(&redis)
            .top("workers = 1")
            .section("[auth]\nmode = \"proxy\"\nfree_failures = 0\nmax_failure_delay = \"1h\"")
            .section(&format!("[[auth.user]]\nname = \"app\"\n{passwords}"))
    };
    let respool = with("password = \"old\"").start();
    // From the first, which is wrong, on the turns of the others come ever later.
    for end in [drop as fn(Client), Client::abort, drop] {
        waiting_of_slowed(&respool, 95, 5).into_iter().for_each(end);
        eventually(
            || respool.clients_of("default") == 0,
            "those who left while they waited are gone",
        );
    }
    // So that nobody of another 95 is refused, nor who comes behind them.
    let _stay = waiting_of_slowed(&respool, 95, 5);
    let before = respool.metric(DELAYED);
    let mut right = respool.client_from(SLOWED);
    right.send(encode(&["AUTH", "app", "new"]));
    eventually(|| respool.metric(DELAYED) > before, "it waits");
    assert_eq!(respool.metric_or_zero(REFUSED), 0.0);
    respool.reload(&with("password = \"new\""));
    assert_eq!(right.reply(), Value::ok());
}

#[test]
fn who_leaves_behind_attempts_that_a_stalled_server_does_not_answer_is_gone() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("reply_timeout = \"60s\"")
        .section("[auth]\nmax_attempts_in_flight = 4")
        .start();
    respool.client().ping();
    redis.pause();
    let waiting = waiting_of_slowed(&respool, 200, 4);
    drop(waiting);
    eventually(
        || respool.clients_of("default") <= 4,
        "only whose attempt is at the server is waited for",
    );
    redis.resume();
    eventually(|| respool.clients_of("default") == 0, "nobody is left");
    assert_eq!(respool.metric_or_zero(REFUSED), 0.0);
}

#[test]
fn who_has_only_finished_sending_has_its_turn_within_the_grace() {
    let redis = Redis::start(&[]);
    let with = |passwords: &str| {
        Respool::with(&redis)
            .top("workers = 1")
            .limits("half_closed_grace = \"10m\"")
            .section("[auth]\nmode = \"proxy\"\nfree_failures = 0\nmax_failure_delay = \"1h\"")
            .section(&format!("[[auth.user]]\nname = \"app\"\n{passwords}"))
    };
    let respool = with("password = \"old\"").start();
    let _others = waiting_of_slowed(&respool, 60, 10);
    let before = respool.metric_or_zero(DELAYED);
    let mut finished = respool.client_from(SLOWED);
    finished.send([encode(&["AUTH", "app", "new"]), encode(&["PING"])].concat());
    finished.finish_sending();
    eventually(|| respool.metric_or_zero(DELAYED) > before, "it waits");
    respool.reload(&with("password = \"new\""));
    assert_eq!(finished.read_to_end(), b"+OK\r\n+PONG\r\n");
}
