/* virtio-mmio devices, driven by hand: a well-behaved driver's steps, each of which an attack may leave out
 * or do wrongly. */
#ifndef VIRTIO_H
#define VIRTIO_H

#include "machine.h"

#define NET 1
#define BLOCK 2
#define RNG 4
#define BALLOON 5
#define VSOCK 19
#define FS 26

#define MAGIC 0x000
#define DEVICE_ID 0x008
#define DEVICE_FEATURES 0x010
#define DEVICE_FEATURES_SEL 0x014
#define DRIVER_FEATURES 0x020
#define DRIVER_FEATURES_SEL 0x024
#define QUEUE_SEL 0x030
#define QUEUE_NUM_MAX 0x034
#define QUEUE_NUM 0x038
#define QUEUE_READY 0x044
#define QUEUE_NOTIFY 0x050
#define INTERRUPT_STATUS 0x060
#define INTERRUPT_ACK 0x064
#define STATUS 0x070
#define QUEUE_DESC 0x080
#define QUEUE_AVAIL 0x090
#define QUEUE_USED 0x0a0
#define CONFIG 0x100

#define ACKNOWLEDGE 1
#define DRIVER 2
#define DRIVER_OK 4
#define FEATURES_OK 8
#define NEEDS_RESET 64
#define READY (ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK)

#define VERSION_1 (1ul << 32)
#define EVENT_IDX (1ul << 29)
#define INDIRECT (1ul << 28)
#define ALL_FEATURES (~0ul)

#define NEXT 1
#define WRITE 2
#define TABLE 4

#define QUEUES 3
#define DEVICES 19

struct queue {
    u64 table, available, used, indirect;
    u16 size, offered, seen;
};

struct device {
    u64 base;
    u32 type;
    int queue_count;
    struct queue queues[QUEUES];
};

extern struct device devices[DEVICES];
extern int device_count;

void find_devices(void);
/* The first device of a type; one that is not there ends the machine. */
struct device *device_of(u32 type);
/* Queues whose chains the device takes as soon as they are there, as a mask. */
int active_queues(const struct device *device);

void reset(struct device *device);
/* Up to FEATURES_OK, with those of the features that are offered. */
void negotiate(struct device *device, u64 features);
/* Fresh rings for all queues. */
void set_up_queues(struct device *device);
/* All that, and DRIVER_OK. */
void set_up(struct device *device);
u32 status(const struct device *device);

/* Writes a descriptor of a table. */
void describe(u64 table, u64 index, u64 address, u32 bytes, u16 flags, u16 next);
/* Offers the chain that begins at `head`. */
void offer(struct device *device, int queue, u16 head);
void kick(struct device *device, int queue);
u16 used_index(const struct device *device, int queue);
/* Waits for the next chain to be given back: 1, and how many bytes were written into it. 0 where the device
 * stops instead. */
int given_back(struct device *device, int queue, u32 *written);
/* Waits until the device has stopped; chains that are given back do not count. */
void stops(struct device *device, const char *what);
/* Offers, kicks, and waits for one chain at descriptor 0: how many bytes were written. */
u32 exchange(struct device *device, int queue);

/* Sets the device up and has it do something that only a sound device does. */
void works(struct device *device);
void everything_works(void);

/* fs.c: a FUSE message to the root; the answer's error, as a positive number. */
u32 fs_getattr_root(struct device *device);

#endif
