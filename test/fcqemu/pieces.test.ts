/** Small parts whose every corner is cheaper to test alone: command line, arguments, buckets, verdicts, notes. */
import assert from 'node:assert/strict';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { cachedVerdict } from '../../fcqemu/qemu/accelerator.ts';
import { type QemuSpec, qemuArguments } from '../../fcqemu/qemu/arguments.ts';
import { bootArgsProblem, composeCommandLine } from '../../fcqemu/vmm/command-line.ts';
import { isElfWithoutPvh } from '../../fcqemu/vmm/kernel-image.ts';
import { type StoredLimiter, storedLimiter, updatedLimiter } from '../../fcqemu/vmm/rate-limiter.ts';
import { TokenBucket } from '../../fcqemu/vmm/token-bucket.ts';
import { tempDir } from '../support/temp-dir.ts';
import { code, tinyKernel } from './support/tiny-kernel.ts';

describe('the kernel command line', () => {
  const compose = (...args: Parameters<typeof composeCommandLine>) => composeCommandLine(...args)?.text;

  it('has Firecracker’s default when the client gives none', () => {
    assert.equal(
      compose(null, undefined, []),
      'reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce pci=off',
    );
  });

  it('names the root device and its mode', () => {
    assert.equal(compose('quiet', { partuuid: null, readOnly: false }, []), 'quiet pci=off root=/dev/vda rw');
    assert.equal(compose('', { partuuid: '0eaa91a0-01', readOnly: true }, []), 'pci=off root=PARTUUID=0eaa91a0-01 ro');
  });

  it('keeps the arguments of init last, and puts its own before them', () => {
    assert.equal(
      compose('quiet -- --for-init', undefined, ['tsc_early_khz=1']),
      'quiet pci=off tsc_early_khz=1 -- --for-init',
    );
  });

  it('leaves out what would take the interrupts away, and says so', () => {
    const line = composeCommandLine('noapic quiet acpi=off -- noapic', undefined, []);
    assert.deepEqual(line, { text: 'quiet pci=off -- noapic', dropped: ['noapic', 'acpi=off'] });
  });

  it('counts what Firecracker counts against 2048 bytes, and nothing else', () => {
    const room = 2047 - ' pci=off'.length;
    assert.ok(compose('x'.repeat(room), undefined, ['tsc_early_khz=1']));
    assert.equal(compose('x'.repeat(room + 1), undefined, []), undefined);
    assert.equal(bootArgsProblem('x'.repeat(2047)), undefined);
    assert.match(bootArgsProblem('x'.repeat(2048)) ?? '', /too long/);
    assert.match(bootArgsProblem('ü') ?? '', /non-printable/);
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

  it('use an AMD model for emulation and the host’s CPU with KVM', () => {
    assert.deepEqual(values(qemuArguments(spec), '-cpu'), ['EPYC,check=off']);
    assert.deepEqual(values(qemuArguments({ ...spec, accelerator: 'kvm' }), '-cpu'), ['host']);
  });

  it('share the memory of a booted machine and map that of a restored one privately', () => {
    const backend = (args: string[]) => JSON.parse(values(args, '-object')[0] ?? '{}');
    assert.deepEqual(backend(qemuArguments(spec)), {
      id: 'ram',
      size: 268435456,
      'qom-type': 'memory-backend-memfd',
      share: true,
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

describe('the verdict about KVM', () => {
  it('is asked for once per kernel, and forgets earlier boots of the host', async (t) => {
    const cacheDir = join(await tempDir(t), 'cache');
    const [kernel, other] = [join(cacheDir, '..', 'k1'), join(cacheDir, '..', 'k2')];
    writeFileSync(kernel, 'one');
    writeFileSync(other, 'two');
    let asked = 0;
    const ask = (answer: boolean) => async () => {
      asked += 1;
      return answer;
    };
    assert.equal(await cachedVerdict({ cacheDir }, kernel, ask(false)), 'tcg');
    assert.equal(await cachedVerdict({ cacheDir }, kernel, ask(true)), 'tcg');
    writeFileSync(join(cacheDir, 'kvm-an-earlier-boot'), 'tcg');
    assert.equal(await cachedVerdict({ cacheDir }, other, ask(true)), 'kvm');
    assert.equal(asked, 2);
    assert.equal(readdirSync(cacheDir).length, 2);
  });

  it('does without a cache that cannot be written', async (t) => {
    const kernel = join(await tempDir(t), 'k');
    writeFileSync(kernel, 'x');
    assert.equal(await cachedVerdict({ cacheDir: join(kernel, 'below-a-file') }, kernel, async () => true), 'kvm');
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
    assert.equal(judge(tinyKernel(code.halt()).subarray(0, 70)), true);
  });
});
