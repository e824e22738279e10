//! Labs of network namespaces and veth pairs with Linux's own stacks as hosts, and traffic tools.
