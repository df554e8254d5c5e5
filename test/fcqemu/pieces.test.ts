/** Small parts whose every corner is cheaper to test alone: command line, arguments, buckets, notes. */
import assert from 'node:assert/strict';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { type QemuSpec, qemuArguments } from '../../fcqemu/qemu/arguments.ts';
import { bootArgsProblem, type CommandLineOptions, composeCommandLine } from '../../fcqemu/vmm/command-line.ts';
import { initrdProblem, isElfWithoutPvh, kernelProblem } from '../../fcqemu/vmm/kernel-image.ts';
import { type StoredLimiter, storedLimiter, updatedLimiter } from '../../fcqemu/vmm/rate-limiter.ts';
import { TokenBucket } from '../../fcqemu/vmm/token-bucket.ts';
import { paced } from '../support/pace.ts';
import { tempDir } from '../support/temp-dir.ts';
import { code, tinyKernel } from './support/tiny-kernel.ts';

describe('the kernel command line', () => {
  const compose = (bootArgs: string | null, more: Partial<CommandLineOptions> = {}) =>
    composeCommandLine({ bootArgs, devices: 0, devicesBeforeRoot: 0, extra: [], ...more });
  const textOf = (...args: Parameters<typeof compose>) => {
    const line = compose(...args);
    return 'text' in line ? line.text : line.problem;
  };

  it('has Firecracker’s default when the client gives none', () => {
    assert.equal(
      textOf(null),
      'reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce pci=off',
    );
  });

  it('names the root device and its mode', () => {
    assert.equal(textOf('quiet', { root: { partuuid: null, readOnly: false } }), 'quiet pci=off root=/dev/vda rw');
    const root = { partuuid: '0eaa91a0-01', readOnly: true };
    assert.equal(textOf('', { root }), 'pci=off root=PARTUUID=0eaa91a0-01 ro');
  });

  it('keeps the arguments of init last, and puts its own before them', () => {
    assert.equal(
      textOf('quiet -- --for-init', { extra: ['tsc_early_khz=1'] }),
      'quiet pci=off tsc_early_khz=1 -- --for-init',
    );
  });

  it('leaves out what would take the interrupts away, and says so', () => {
    const line = compose('noapic quiet acpi=off -- noapic');
    assert.deepEqual(line, { text: 'quiet pci=off -- noapic', dropped: ['noapic', 'acpi=off'] });
  });

  it('counts what Firecracker counts against 2048 bytes, and nothing else', () => {
    const room = 2047 - ' pci=off'.length;
    const tooLong = 'Inserting string would make command line too long.';
    assert.ok('text' in compose('x'.repeat(room), { extra: ['tsc_early_khz=1'] }));
    assert.equal(textOf('x'.repeat(room + 1)), `Invalid kernel command line: ${tooLong}`);
    // each device of Firecracker's has an argument of its own
    const device = ' virtio_mmio.device=4K@0xc0001000:5'.length;
    assert.ok('text' in compose('x'.repeat(room - device), { devices: 1 }));
    assert.equal(
      textOf('x'.repeat(room - device + 1), { devices: 1 }),
      `Could not attach device: MMIO transport error: Failed to allocate requested resourc: ${tooLong}`,
    );
    assert.ok('text' in compose('x'.repeat(room - 6 * device - 1), { devices: 6 }));
    assert.ok('problem' in compose('x'.repeat(room - 6 * device), { devices: 6 }));
    assert.equal(bootArgsProblem('x'.repeat(2047)), undefined);
    assert.equal(bootArgsProblem('x'.repeat(2048)), 'Invalid cmdline capacity provided.');
    assert.equal(bootArgsProblem('ü'.repeat(1024)), 'Invalid cmdline capacity provided.');
  });
});

describe('QEMU’s arguments', () => {
  const spec: QemuSpec = {
    instanceId: 'vm-1',
    accelerator: 'tcg',
    vcpuCount: 2,
    memoryMib: 256,
    kernelPath: '/k,readonly=on',
    initrdPath: null,
    commandLine: 'a=1,b "c"',
    drives: [
      {
        drive_id: 'x',
        partuuid: null,
        is_root_device: true,
        cache_type: 'Unsafe',
        is_read_only: false,
        path_on_host: '/d,file.driver=nbd',
        rate_limiter: null,
        io_engine: 'Async',
        socket: null,
        serial: '1',
        isBlockDevice: true,
      },
    ],
    interfaces: [
      {
        iface_id: 'e',
        host_dev_name: 'tap,0',
        guest_mac: null,
        mtu: 1400,
        rx_rate_limiter: null,
        tx_rate_limiter: null,
        mac: '02:00:00:00:00:01',
      },
    ],
    entropy: null,
    balloon: null,
    vsock: null,
    sandbox: true,
    announces: false,
    restore: false,
  };
  /** Values of an option, in order. */
  const values = (args: string[], option: string) => args.flatMap((arg, at) => (args[at - 1] === option ? [arg] : []));

  it('carry client strings as whole arguments or JSON only', () => {
    const args = qemuArguments(spec);
    assert.deepEqual(values(args, '-kernel'), ['/k,readonly=on']);
    assert.deepEqual(values(args, '-append'), ['a=1,b "c"']);
    const [file] = values(args, '-blockdev').map((text) => JSON.parse(text));
    assert.deepEqual([file.driver, file.filename, file.aio], ['host_device', '/d,file.driver=nbd', 'io_uring']);
    const [netdev] = values(args, '-netdev').map((text) => JSON.parse(text));
    assert.deepEqual(netdev, { type: 'tap', id: 'net0', fd: '8', vhost: false });
    for (const arg of args.filter((text) => text.includes('/d,file'))) {
      assert.ok(arg.startsWith('{'), arg);
    }
  });

  it('have devices that a guest cannot announce itself with, but for a state that was written by one that could', () => {
    const device = (args: string[]) =>
      JSON.parse(values(args, '-device').find((text) => text.includes('nic0')) ?? '{}');
    assert.equal(device(qemuArguments(spec)).guest_announce, false);
    assert.equal(device(qemuArguments({ ...spec, announces: true })).guest_announce, undefined);
  });

  it('use an AMD model for emulation and the host’s CPU with KVM', () => {
    assert.deepEqual(values(qemuArguments(spec), '-cpu'), ['EPYC,check=off']);
    assert.deepEqual(values(qemuArguments({ ...spec, accelerator: 'kvm' }), '-cpu'), ['host']);
  });

  it('give translated code room that grows with the memory of the guest', () => {
    const cache = (memoryMib: number) =>
      values(qemuArguments({ ...spec, memoryMib }), '-accel')[0]?.split('tb-size=')[1];
    assert.deepEqual([128, 512, 1024, 5120, 65_536].map(cache), ['64', '64', '128', '640', '1024']);
  });

  it('give a booted machine memory that a kill frees at once, and map that of a restored one privately', () => {
    const backend = (args: string[]) => JSON.parse(values(args, '-object')[0] ?? '{}');
    assert.deepEqual(backend(qemuArguments(spec)), {
      id: 'ram',
      size: 268435456,
      'qom-type': 'memory-backend-ram',
    });
    const restored = qemuArguments({ ...spec, restore: true });
    assert.equal(backend(restored)['mem-path'], '/proc/self/fd/7');
    assert.equal(backend(restored).share, false);
    assert.deepEqual(values(restored, '-incoming'), ['defer']);
  });

  it('take random bytes from fcqemu when they are limited, and from the kernel otherwise', () => {
    const backend = (rate_limiter: StoredLimiter | null) => {
      const found = values(qemuArguments({ ...spec, entropy: { rate_limiter } }), '-object').find((text) =>
        text.includes('rng'),
      );
      return JSON.parse(found ?? '{}')['qom-type'];
    };
    assert.equal(backend(null), 'rng-random');
    assert.equal(backend({ bandwidth: null, ops: { size: 1, one_time_burst: null, refill_time: 1 } }), 'rng-egd');
  });

  it('leave the seccomp filter out when asked', () => {
    assert.equal(values(qemuArguments({ ...spec, sandbox: false }), '-sandbox').length, 0);
  });
});

describe('a token bucket', () => {
  it('spends its burst, then its content, then what time brings', () => {
    const bucket = new TokenBucket({ size: 100, one_time_burst: 50, refill_time: 1000 }, 0);
    assert.equal(bucket.take(120, 0), 120);
    assert.equal(bucket.take(100, 0), 30);
    assert.equal(bucket.take(100, 100), 10);
    assert.equal(bucket.take(1000, 60_000), 100);
  });

  it('may bring less than one token a second', () => {
    const bucket = new TokenBucket({ size: 1, one_time_burst: null, refill_time: 10_000 }, 0);
    assert.equal(bucket.take(1, 0), 1);
    assert.equal(bucket.take(1, 5000), 0);
    assert.equal(bucket.waitMs(1, 5000), 5000);
    assert.equal(bucket.take(1, 10_000), 1);
    const slow = new TokenBucket({ size: 1, one_time_burst: null, refill_time: 2 ** 40 }, 0);
    slow.spend(1);
    assert.equal(slow.waitMs(1, 0), 2 ** 31 - 1);
  });

  it('is configured, kept and removed as the API describes', () => {
    const size = { size: 5, refill_time: 10 };
    const stored = { ...size, one_time_burst: null };
    assert.equal(storedLimiter({ bandwidth: { size: 0, refill_time: 10 } }), null);
    assert.deepEqual(storedLimiter({ ops: size }), { bandwidth: null, ops: stored });
    assert.deepEqual(updatedLimiter({ bandwidth: stored, ops: null }, { ops: size }), {
      bandwidth: stored,
      ops: stored,
    });
    assert.equal(updatedLimiter({ bandwidth: stored, ops: null }, { bandwidth: { size: 0, refill_time: 0 } }), null);
    assert.deepEqual(updatedLimiter({ bandwidth: stored, ops: null }, null), { bandwidth: stored, ops: null });
  });
});

describe('a kernel image', () => {
  it('is an ELF with or without a PVH note, or something else', async (t) => {
    const path = join(await tempDir(t), 'kernel');
    const judge = (content: Buffer) => {
      writeFileSync(path, content);
      return isElfWithoutPvh(path);
    };
    assert.equal(judge(tinyKernel(code.halt())), false);
    assert.equal(judge(tinyKernel(code.halt(), { pvh: false })), true);
    assert.equal(judge(Buffer.from('short')), false);
    assert.equal(judge(Buffer.alloc(4096)), false);
    assert.equal(judge(tinyKernel(code.halt()).subarray(0, 70)), false);
  });

  it('costs little to look at, whatever its notes claim', { timeout: 10_000 }, async (t) => {
    const path = join(await tempDir(t), 'kernel');
    const segments = 65_535;
    const tableAt = 64;
    const notesAt = tableAt + 56 * segments;
    const notesBytes = 1024 * 1024;
    const elf = Buffer.alloc(notesAt + notesBytes);
    tinyKernel(code.halt()).copy(elf, 0, 0, 64);
    elf.writeBigUInt64LE(BigInt(tableAt), 32);
    elf.writeUInt16LE(segments, 56);
    for (let index = 0; index < segments; index++) {
      const at = tableAt + 56 * index;
      elf.writeUInt32LE(4, at); // PT_NOTE
      elf.writeBigUInt64LE(BigInt(notesAt), at + 8);
      elf.writeBigUInt64LE(BigInt(notesBytes), at + 32);
    }
    // nothing but empty notes; then a size that is -12 to who reads it as signed, so that the next note is the same one
    for (const size of [0, 0xffff_fff4, 0xffff_ffff, 0x8000_0000]) {
      elf.fill(0, notesAt);
      elf.writeUInt32LE(size, notesAt);
      writeFileSync(path, elf);
      const began = process.cpuUsage();
      assert.equal(isElfWithoutPvh(path), true);
      const { user, system } = process.cpuUsage(began);
      const ms = (user + system) / 1000;
      assert.ok(ms < paced(1000), `${ms} ms of processor time for notes of ${size} bytes`);
    }
  });

  it('is refused for what Firecracker’s loader refuses', async (t) => {
    const path = join(await tempDir(t), 'kernel');
    const good = tinyKernel(code.halt());
    const changed = (at: number, ...bytes: number[]) => {
      const copy = Buffer.from(good);
      copy.set(bytes, at);
      return copy;
    };
    const judge = (content: Buffer, mib = 128n) => {
      writeFileSync(path, content);
      return kernelProblem(path, mib << 20n)?.debug;
    };
    const elf = (name: string) => `ConfigureSystem(KernelLoader(Elf(${name})))`;
    assert.equal(judge(good), undefined);
    assert.equal(judge(good, 1n), elf('ReadKernelImage'));
    assert.equal(judge(good.subarray(0, 63)), elf('ReadElfHeader'));
    assert.equal(judge(Buffer.alloc(5000)), elf('InvalidElfMagicNumber'));
    assert.equal(judge(changed(5, 2)), elf('BigEndianElfOnLittle'));
    assert.equal(judge(changed(54, 32)), elf('InvalidProgramHeaderSize'));
    assert.equal(judge(changed(32, 8)), elf('InvalidProgramHeaderOffset'));
    assert.equal(judge(changed(24, 0, 0, 0, 0)), elf('InvalidEntryAddress'));
    assert.equal(judge(good.subarray(0, 70)), elf('ReadProgramHeader'));
    assert.equal(judge(good.subarray(0, good.length - 1)), elf('ReadKernelImage'));
    const bzImage = Buffer.alloc(4096);
    bzImage.write('HdrS', 0x202, 'latin1');
    assert.equal(judge(bzImage), undefined);
  });

  it('comes with an initrd that has to fit', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'initrd');
    const judge = (bytes: number) => {
      writeFileSync(path, '');
      truncateSync(path, bytes);
      return initrdProblem(path, 1n << 20n)?.debug;
    };
    assert.equal(judge(1 << 20), undefined);
    assert.equal(judge((1 << 20) + 1), 'Initrd(Address)');
    assert.equal(judge(0), 'Initrd(Load)');
    assert.equal(
      initrdProblem(dir, 1n << 30n)?.text,
      'Error with initrd initialization: Cannot load initrd due to an invalid image: Is a directory (os error 21).',
    );
  });
});
