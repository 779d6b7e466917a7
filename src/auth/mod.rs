//! Which client is who, shown by a secret, and what the server says of clients' secrets and permissions.
//!
//! Pure: what is compared and read here comes from elsewhere, the time too.

mod attempts;
mod permissions;
mod refusal;
mod rounds;
mod served;
mod users;

pub use attempts::{
    AttemptBounds, AttemptOutcome, AttemptSource, AttemptTicket, AttemptTurn, LoginAttempts,
};
pub use permissions::{
    KnownPermission, PermissionResult, UserPermissions, concerns_others, is_refusal,
};
pub use refusal::{is_wrong_password, refusal_text};
pub use rounds::UserRounds;
pub use served::{AwaitedSecret, SecretHash, SecretsListener, ServedSecret, ServedSecrets};
pub use users::ConfiguredUsers;
