/* All attacks, by the file that they are in. */
#ifndef ATTACKS_H
#define ATTACKS_H

#include "virtio.h"

/* registers.c */
void registers_garbage(void);
void registers_order(void);
void queues_wrong(void);
void rings_moved(void);
void reset_races(void);
void notify_storm(void);
/* rings.c */
void chains(void);
void rings_broken(void);
void rings_overwritten(void);
void descriptors_changed(void);
/* block.c */
void block_requests(void);
void block_large(void);
/* net.c */
void net_headers(void);
void net_receive(void);
/* vsock.c */
void vsock_packets(void);
void vsock_flood(void);
void vsock_credit(void);
void vsock_no_room(void);
/* fs.c */
void fs_messages(void);
void fs_names(void);
void fs_forged(void);
void fs_exhaust(void);
/* balloon.c */
void balloon_lies(void);
/* machine.c */
void ports(void);
void holes(void);
void interrupts(void);
void processor(void);
void nested(void);
void serial(void);
void triple_fault(void);
void execute_nothing(void);
void panic_lie(void);
void power_off_lie(void);
void halt(void);
/* storm.c */
void storm(void);
void storm_endless(void);

#endif
