//! The smallest XDP program: redirect every packet of a queue to the socket bound to it, else pass it to the kernel.
