//! Who is who, shown by a secret: the users of the configuration, and the tokens by which AWS knows respool.
//!
//! Pure: what is compared, signed and read here comes from elsewhere, the time too.

mod attempts;
mod aws;
mod permissions;
mod refusal;
mod rounds;
mod served;
mod sigv4;
mod users;

pub use attempts::{AttemptBounds, Attempts, Outcome, Source, Ticket, Turn};
pub use aws::{AwsKeys, from_container, from_environment, from_sts};
pub use permissions::{
    Known, Permission, Permissions, concerns_others, is_refusal, is_unknown_command,
};
pub use refusal::{NO_PASSWORD, NOAUTH, WRONGPASS, is_wrong_password, refusal_text};
pub use rounds::UserRounds;
pub use served::{AwaitedSecret, SecretHash, SecretsListener, ServedSecret, ServedSecrets};
pub use sigv4::{escaped, token};
pub use users::Users;
