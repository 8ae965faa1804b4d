//! Wire ⇄ meaning. Every conversion from the wire can fail and names the field.
