//! How work is cut, what is skipped, and what is refused.

use super::*;
