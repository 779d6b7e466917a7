//! The reply of EXEC, in which some elements are respool's own: the server has answered something else in their places.
//!
//! Where all commands before such an element are answered by one frame each, frames are counted. Where one of them may be answered
//! by more (a script writes line ends into its error), a mark is queued right before it, whose answer holds a number that nobody else
//! knows: what comes is searched for that answer, byte by byte, and the frame behind it is the element.
//!
//! Invariant: an element is taken out of the reply whole, and every other byte is passed on as it came, but for marks and their
//! number. Nothing behind the place of a mark is passed on before the mark has been found.

use super::fence::Fence;
use super::transaction_end::array_of;
use crate::resp::ReplyScanner;
use crate::resp::speak::push_header;

/// Most bytes of an element that is taken out. What the server says in such a place is a line, a list of its clients, or the
/// subscribers of as many channels as one request can name.
const MOST_ELEMENT: usize = 1024 * 1024;

/// Begins what Redis 6.2 writes between elements: a push about keys that its client tracks, of two parts.
const INVALIDATION: &[u8] = b">2\r\n";

/// The server's reply is not of the commands that were queued.
#[derive(Debug, PartialEq, Eq)]
pub struct ExecMismatch;

/// Is one of the parts that the reply consists of, in their order.
#[derive(Debug, PartialEq, Eq)]
pub enum ExecPart<'a> {
    /// These bytes are passed on.
    Pass(&'a [u8]),
    /// This is the element in the place of this number, which something else is put in for.
    Own(usize, Vec<u8>),
}

/// Says where an element stands that is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnPlace {
    /// Its place among the elements, those of marks included.
    pub place: u32,
    /// This mark was queued right before it, if any was.
    pub mark: Option<Fence>,
}

/// Says how far the reply has come.
#[derive(Debug, PartialEq, Eq)]
enum ExecutedStage {
    /// Its first byte has not.
    Begin,
    /// It is no array, so nothing has run; or all elements that are taken out have come. The rest is passed on.
    Through,
    /// The element with this number is next, or under way.
    Element(u32),
    /// The answer to the next mark is searched for; so many of its bytes have come.
    Search(usize),
}

/// Reads the reply of one EXEC, cut anywhere as [`ReplyScanner`] cuts it.
#[derive(Debug)]
pub struct Executed {
    /// The reply has this many elements, those of marks included.
    elements: u32,
    /// This many of them are the answers to marks.
    marks: u32,
    /// The elements that are taken out stand there, in ascending order.
    places: Vec<OwnPlace>,
    /// This one of `places` is taken out next.
    next: usize,
    stage: ExecutedStage,
    scanner: ReplyScanner,
    /// A push is under way, which stands between two elements.
    is_between: bool,
    gathered: Vec<u8>,
}

impl Executed {
    /// The reply to EXEC of `commands` commands and `marks` marks, of which the elements at `places` are taken out. A mark that stands
    /// before none of them makes a mismatch.
    pub fn new(commands: u32, marks: u32, places: Vec<OwnPlace>) -> Self {
        Self {
            elements: commands.saturating_add(marks),
            marks,
            places,
            next: 0,
            stage: ExecutedStage::Begin,
            scanner: ReplyScanner::default(),
            is_between: false,
            gathered: Vec::new(),
        }
    }

    /// Hands the parts in `bytes`, which follow on those before, to `each`.
    ///
    /// # Errors
    /// [`ExecMismatch`] when nobody can tell which elements are whose.
    pub fn take(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(ExecPart<'_>),
    ) -> Result<(), ExecMismatch> {
        let (mut from, mut at) = (0, 0);
        if self.stage == ExecutedStage::Begin && !bytes.is_empty() {
            (from, at) = self.begin(bytes, &mut each)?;
        }
        while at < bytes.len() {
            match self.stage {
                ExecutedStage::Begin | ExecutedStage::Through => at = bytes.len(),
                ExecutedStage::Search(matched) => {
                    if from < at {
                        each(ExecPart::Pass(&bytes[from..at]));
                    }
                    at += self.search(&bytes[at..], matched, &mut each)?;
                    from = at;
                }
                ExecutedStage::Element(number) => {
                    if self.scanner.at_boundary() {
                        self.is_between = bytes[at..].starts_with(INVALIDATION);
                    }
                    let step = self
                        .scanner
                        .advance(&bytes[at..])
                        .map_err(|_| ExecMismatch)?;
                    if step.used == 0 {
                        return Err(ExecMismatch);
                    }
                    let end = at + step.used;
                    let is_own = self.places[self.next].place == number && !self.is_between;
                    if is_own {
                        if from < at {
                            each(ExecPart::Pass(&bytes[from..at]));
                        }
                        from = end;
                        self.gathered.extend_from_slice(&bytes[at..end]);
                        if self.gathered.len() > MOST_ELEMENT {
                            return Err(ExecMismatch);
                        }
                    }
                    if step.complete && !self.is_between {
                        self.ended(number, is_own, &mut each);
                    }
                    at = end;
                }
            }
        }
        if from < bytes.len() {
            each(ExecPart::Pass(&bytes[from..]));
        }
        Ok(())
    }

    /// Tells whether every element that is taken out has come, or none will, since nothing has run.
    pub fn is_whole(&self) -> bool {
        self.stage == ExecutedStage::Through
    }

    /// Reads the line that tells how many elements there are. Returns from where on bytes are passed on, and are looked at.
    fn begin(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(ExecPart<'_>),
    ) -> Result<(usize, usize), ExecMismatch> {
        let Some((count, length)) = array_of(bytes) else {
            self.stage = ExecutedStage::Through;
            return Ok((0, 0));
        };
        let marks = self.places.iter().filter(|own| own.mark.is_some()).count();
        let is_inside = |own: &OwnPlace| own.place < self.elements;
        let is_known = marks == self.marks as usize && self.places.iter().all(is_inside);
        if count != u64::from(self.elements) || !is_known {
            return Err(ExecMismatch);
        }
        self.stage = self.stage_from(0);
        if self.marks == 0 {
            return Ok((0, length));
        }
        let mut head = Vec::new();
        push_header(&mut head, b'*', i64::from(self.elements - self.marks));
        each(ExecPart::Pass(&head));
        Ok((length, length))
    }

    /// Decides how the next element that is taken out is found, when the element with this number comes next.
    fn stage_from(&self, number: u32) -> ExecutedStage {
        match self.places.get(self.next) {
            None => ExecutedStage::Through,
            Some(own) if own.mark.is_some() => ExecutedStage::Search(0),
            Some(_) => ExecutedStage::Element(number),
        }
    }

    /// An element has ended.
    fn ended(&mut self, number: u32, is_own: bool, each: &mut impl FnMut(ExecPart<'_>)) {
        if is_own {
            each(ExecPart::Own(self.next, std::mem::take(&mut self.gathered)));
            self.next += 1;
        }
        self.stage = match is_own {
            true => self.stage_from(number + 1),
            false => ExecutedStage::Element(number + 1),
        };
    }

    /// Searches `bytes` for the answer to the next mark, of which `matched` bytes have come already. Returns how many of them are
    /// done with.
    fn search(
        &mut self,
        bytes: &[u8],
        matched: usize,
        each: &mut impl FnMut(ExecPart<'_>),
    ) -> Result<usize, ExecMismatch> {
        let own = self.places[self.next];
        let mark = own.mark.ok_or(ExecMismatch)?.answer();
        let missing = &mark[matched..];
        if bytes.starts_with(missing) {
            self.stage = ExecutedStage::Element(own.place);
            return Ok(missing.len());
        }
        if missing.starts_with(bytes) {
            self.stage = ExecutedStage::Search(matched + bytes.len());
            return Ok(bytes.len());
        }
        if matched > 0 {
            // Only its first byte is what it begins with: nothing in the part that has come can begin another.
            each(ExecPart::Pass(&mark[..matched]));
            self.stage = ExecutedStage::Search(0);
            return Ok(0);
        }
        let found = memchr::memmem::find(bytes, &mark);
        let end = found.unwrap_or_else(|| {
            let tail = bytes.len().saturating_sub(mark.len() - 1);
            let begun = memchr::memrchr(mark[0], &bytes[tail..]).map(|at| tail + at);
            begun
                .filter(|&at| mark.starts_with(&bytes[at..]))
                .unwrap_or(bytes.len())
        });
        if end > 0 {
            each(ExecPart::Pass(&bytes[..end]));
        }
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fences::tests::ELEMENTS;
    use proptest::prelude::*;

    /// Holds what is passed on, without a number, and the elements that are taken out, with theirs.
    type PassedParts = Vec<(Option<usize>, Vec<u8>)>;

    fn push(parts: &mut PassedParts, part: ExecPart<'_>) {
        match (part, parts.last_mut()) {
            (ExecPart::Own(number, element), _) => parts.push((Some(number), element)),
            (ExecPart::Pass(bytes), Some((None, before))) => before.extend_from_slice(bytes),
            (ExecPart::Pass(bytes), _) => parts.push((None, bytes.to_vec())),
        }
    }

    /// The parts of `reply`, which arrives cut at `cuts`, as a connection hands it over up to where it takes its end to be; what is passed
    /// on in one piece. With it whether all has come.
    fn parts(
        executed: &mut Executed,
        reply: &[u8],
        cuts: &[usize],
    ) -> (PassedParts, Result<bool, ExecMismatch>) {
        let mut parts = PassedParts::new();
        let (mut scanner, mut carry, mut from) = (ReplyScanner::default(), Vec::new(), 0);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (reply.len() + 1)).collect();
        ends.push(reply.len());
        ends.sort_unstable();
        for end in ends {
            carry.extend_from_slice(&reply[from..end]);
            from = end;
            let Ok(step) = scanner.advance(&carry) else {
                return (parts, Err(ExecMismatch));
            };
            let taken = executed.take(&carry[..step.used], |part| push(&mut parts, part));
            if let Err(mismatch) = taken {
                return (parts, Err(mismatch));
            }
            carry.drain(..step.used);
            if step.complete {
                break;
            }
        }
        (parts, Ok(executed.is_whole()))
    }

    fn unmarked(place: u32) -> OwnPlace {
        OwnPlace { place, mark: None }
    }

    /// Stands for one command of a transaction.
    #[derive(Debug, Clone)]
    enum Queued {
        /// The server answers it by this one of [`ELEMENTS`].
        Plain(usize),
        /// It is respool's own.
        Own,
        /// It is a script, which writes these of [`WRITTEN`].
        Script(Vec<usize>),
    }

    /// A script writes these to have them taken for replies.
    const WRITTEN: [&str; 14] = [
        "-ERR x\r\n",
        "+OK\r\n",
        "+injected",
        "\r\n",
        ":1\r\n",
        "_\r\n",
        "$30\r\n",
        "$300\r\n",
        "*2\r\n",
        "*9\r\n",
        ">2\r\n",
        "$16\r\n0000000000000000\r\n",
        "$16\r\n00000000",
        "$16\r\n",
    ];

    fn transactions() -> impl Strategy<Value = Vec<Queued>> {
        let queued = prop_oneof![
            2 => (0..ELEMENTS.len()).prop_map(Queued::Plain),
            3 => Just(Queued::Own),
            2 => prop::collection::vec(0..WRITTEN.len(), 0..5).prop_map(Queued::Script),
        ];
        prop::collection::vec(queued, 0..10)
    }

    /// Holds how EXEC of a transaction is answered, and what is to come of it.
    struct Answered {
        executed: Executed,
        reply: Vec<u8>,
        expected: PassedParts,
    }

    fn said_to(number: usize) -> Vec<u8> {
        format!("$9\r\nSECRET{number:03}\r\n").into_bytes()
    }

    /// A mark stands before what respool runs wherever a script stands between it and the one before.
    fn answered(queued: &[Queued]) -> Answered {
        let (mut body, mut expected, mut places) = (Vec::new(), PassedParts::new(), Vec::new());
        let (mut marks, mut is_unsure) = (0, false);
        push(
            &mut expected,
            ExecPart::Pass(format!("*{}\r\n", queued.len()).as_bytes()),
        );
        for (number, queued) in queued.iter().enumerate() {
            let bytes = match queued {
                Queued::Plain(element) => ELEMENTS[*element].as_bytes().to_vec(),
                Queued::Script(written) => {
                    is_unsure = true;
                    let text: String = written.iter().map(|&at| WRITTEN[at]).collect();
                    format!("-ERR {text}\r\n").into_bytes()
                }
                Queued::Own => {
                    let mark = std::mem::take(&mut is_unsure)
                        .then(|| Fence::new(0x9e37_79b9_7f4a_7c15 ^ number as u64));
                    marks += u32::from(mark.is_some());
                    body.extend(mark.iter().flat_map(|mark| mark.answer()));
                    let place = number as u32 + marks;
                    let said = said_to(places.len());
                    body.extend(&said);
                    push(&mut expected, ExecPart::Own(places.len(), said));
                    places.push(OwnPlace { place, mark });
                    continue;
                }
            };
            push(&mut expected, ExecPart::Pass(&bytes));
            body.extend(bytes);
        }
        let commands = queued.len() as u32;
        let mut reply = format!("*{}\r\n", commands + marks).into_bytes();
        reply.extend(body);
        Answered {
            executed: Executed::new(commands, marks, places),
            reply,
            expected,
        }
    }

    proptest! {
        #[test]
        fn own_elements_are_taken_out_whole_however_the_reply_is_cut(
            queued in transactions(),
            cuts in prop::collection::vec(any::<usize>(), 0..30),
        ) {
            // Scripts that write nothing but the text of their error.
            let queued: Vec<Queued> = queued
                .into_iter()
                .map(|queued| match queued {
                    Queued::Script(_) => Queued::Script(Vec::new()),
                    other => other,
                })
                .collect();
            let Answered { mut executed, reply, expected } = answered(&queued);
            prop_assert_eq!(parts(&mut executed, &reply, &cuts), (expected, Ok(true)));
        }

        #[test]
        fn whatever_scripts_write_only_what_was_said_in_its_place_makes_anything_run(
            queued in transactions(),
            cuts in prop::collection::vec(any::<usize>(), 0..30),
        ) {
            let Answered { mut executed, reply, .. } = answered(&queued);
            let owned = queued.iter().filter(|queued| matches!(queued, Queued::Own)).count();
            let (parts, is_whole) = parts(&mut executed, &reply, &cuts);
            let mut ran = 0;
            for (number, bytes) in parts {
                match number {
                    Some(number) => {
                        prop_assert_eq!(number, ran);
                        prop_assert_eq!(bytes, said_to(number));
                        ran += 1;
                    }
                    None => prop_assert!(
                        memchr::memmem::find(&bytes, b"SECRET").is_none(),
                        "what the server has said in the place of another command is passed on"
                    ),
                }
            }
            prop_assert!(is_whole != Ok(true) || ran == owned);
        }

        #[test]
        fn what_has_not_run_is_passed_on_as_it_is(
            which in 0usize..4,
            cuts in prop::collection::vec(any::<usize>(), 0..8),
        ) {
            let reply = [&b"*-1\r\n"[..], b"_\r\n", b"-EXECABORT no\r\n", b"+QUEUED\r\n"][which];
            let mark = Some(Fence::new(7));
            let places = vec![unmarked(0), OwnPlace { place: 3, mark }];
            let mut executed = Executed::new(3, 1, places);
            let expected = (vec![(None, reply.to_vec())], Ok(true));
            prop_assert_eq!(parts(&mut executed, reply, &cuts), expected);
        }
    }

    proptest! {
        #[test]
        fn an_invalidation_between_elements_is_none(cuts in prop::collection::vec(any::<usize>(), 0..30)) {
            let (own, told) = (&b"$6\r\nSECRET\r\n"[..], &b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"[..]);
            let reply = [b"*4\r\n", told, told, b"+OK\r\n", told, own, told, own, b":1\r\n"].concat();
            let passed = |parts: &[&[u8]]| (None, parts.concat());
            let expected = vec![
                passed(&[b"*4\r\n", told, told, b"+OK\r\n", told]),
                (Some(0), own.to_vec()),
                passed(&[told]),
                (Some(1), own.to_vec()),
                passed(&[b":1\r\n"]),
            ];
            let mut executed = Executed::new(4, 0, vec![unmarked(1), unmarked(2)]);
            prop_assert_eq!(parts(&mut executed, &reply, &cuts), (expected, Ok(true)));
        }
    }

    #[test]
    fn another_number_of_elements_is_nobodys_reply() {
        let mark = Some(Fence::new(7));
        for (commands, marks, places) in [
            (1, 0, vec![unmarked(0)]),
            (3, 0, vec![unmarked(2)]),
            (2, 0, vec![unmarked(2)]),
            (1, 1, vec![unmarked(0)]),
            (2, 0, vec![OwnPlace { place: 1, mark }]),
        ] {
            let mut executed = Executed::new(commands, marks, places);
            let (_, told) = parts(&mut executed, b"*2\r\n+OK\r\n+OK\r\n", &[]);
            assert_eq!(told, Err(ExecMismatch));
        }
    }
}
