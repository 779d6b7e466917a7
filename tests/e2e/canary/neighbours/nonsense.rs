//! Neighbours that send what is no request, guess passwords, and make the server write errors with line ends in them.

use super::neighbour::Neighbour;
use super::rough::Attempt;
use crate::harness::encode;

pub(super) fn send_nonsense(neighbour: &mut Neighbour<'_>) {
    const WRONG: [&[u8]; 12] = [
        b"*1\r\n$4\r\nPINGxx",
        b"*1\r\n$-1\r\n",
        b"*-1\r\n*0\r\n*01\r\n",
        b"*99999999999\r\n",
        b"*2\r\n$3\r\nGET\r\n:1\r\n",
        b"GET \"whoami\r\n",
        b"POST / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"*1\r\n$1048576000\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"*3\r\n$3\r\nSET\r\n$536870912\r\n",
        b"*1\n$4\nPING\n",
        b"*1\r\r$4\r\rPING\r\r",
    ];
    let mut buffer = [0; 4096];
    while neighbour.await_turn() {
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        let which = neighbour.draw(2 * WRONG.len() as u64) as usize;
        if let Some(wrong) = WRONG.get(which) {
            rough.send_all(wrong);
        } else {
            let mut bytes = [0; 200];
            neighbour.fill(&mut bytes);
            // Two bytes at the start that make it go far.
            bytes[..2].copy_from_slice([b"*1", b"*9", b"\"a", b"$1"][which % 4]);
            rough.send_all(&bytes);
        }
        while let Attempt::Some(_) = rough.read(&mut buffer) {}
        neighbour.done();
        neighbour.rest(10);
    }
}

/// Guesses passwords, which never succeeds.
pub(super) fn guess_passwords(neighbour: &mut Neighbour<'_>) {
    let mut buffer = [0; 4096];
    while neighbour.await_turn() {
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        for guess in 0..20 {
            let sent = rough.send_all(&encode(&["AUTH", "nobody", &format!("guess {guess}")]));
            if !sent || rough.read(&mut buffer) == Attempt::Ended || !neighbour.rest(10) {
                break;
            }
            neighbour.done();
        }
    }
}

/// Loads libraries whose compile errors quote line ends, which a server writes as they are.
pub(super) fn load_functions(neighbour: &mut Neighbour<'_>) {
    const LIBRARIES: [&str; 4] = [
        "#!lua name=l\nlocal x = 'a' 'b\\r\\n$8\\r\\nINJECTED\\r\\n+'",
        "#!lua name=l\nlocal x = 'a' [[b\n+INJECTED\n+]]",
        "#!lua name=l\nlocal x = 'a' 'b\\r\\n-ERR INJECTED\\r\\n*2\\r\\n:1\\r\\n'",
        "#!lua name=l\nlocal x = 'a' 'b\\r\\n>2\\r\\n+message\\r\\n'",
    ];
    let mut buffer = [0; 4096];
    let mut next = 0;
    while neighbour.await_turn() {
        let Some(mut rough) = neighbour.connect() else {
            continue;
        };
        // Behind a script, so that others' requests stand behind it too.
        let request = [
            encode(&["EVAL", "for i = 1, 100000 do end", "0"]),
            encode(&["FUNCTION", "LOAD", LIBRARIES[next % LIBRARIES.len()]]),
        ];
        next += 1;
        rough.send_all(&request.concat());
        while let Attempt::Some(_) = rough.read(&mut buffer) {}
        neighbour.done();
        neighbour.rest(30);
    }
}
