//! Users whose commands have ended a connection that others shared: a second one is not to be lost the same way.

/// Most users remembered; past it everybody is kept apart.
pub const MAX_USERS: usize = 64;

/// What a user's commands have done, or may have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// A transaction that was sent whole did not end.
    OpenTransaction,
    /// A reply was more than one frame, or nothing tells whether it was.
    Surplus,
}

impl Offence {
    /// What the server has done, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::OpenTransaction => "the server left a transaction open",
            Self::Surplus => "the server sent more frames than it was asked for",
        }
    }

    /// What is done about it, for people.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::OpenTransaction => "transactions of this user are lent connections from now on",
            Self::Surplus => "scripts of this user are lent connections from now on",
        }
    }
}

/// Who is kept apart, and for what. `None` among the users is respool's own.
#[derive(Debug, Default)]
pub struct Distrust {
    users: Vec<(Option<Box<[u8]>>, Offence)>,
}

impl Distrust {
    /// Whether nobody is.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Remembers `user`. True: it was not known before.
    pub fn note(&mut self, user: Option<&[u8]>, offence: Offence) -> bool {
        if self.covers(user, offence) {
            return false;
        }
        self.users.push((user.map(Into::into), offence));
        true
    }

    /// Whether commands of `user` that may do so are kept apart.
    pub fn covers(&self, user: Option<&[u8]>, offence: Offence) -> bool {
        self.users.len() >= MAX_USERS
            || self
                .users
                .iter()
                .any(|(known, what)| *what == offence && known.as_deref() == user)
    }
}
