/** Forks with real guests: each is another machine, down to the next random number that a program draws. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createRunner } from '../../src/system/runner.ts';
import { blindBundle } from '../support/blind-bundle.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

/** Two tell each other apart; 200 are made by hand: BANGER_TEST_FORKS=200. */
const COUNT = Number(process.env.BANGER_TEST_FORKS ?? 2);
/** Forks of a guest that writes; 200 are made by hand: BANGER_TEST_LOADS=200. */
const LOADS = Number(process.env.BANGER_TEST_LOADS ?? 2);
/** Made at a time: each of them takes its memory. */
const AT_ONCE = 10;
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
const LIMIT = { timeout: paced(120_000 + COUNT * 5000 + LOADS * 10_000) };

/**
 * Draws numbers all the time, each behind the name that the machine had before, and is frozen in the middle of it. One process does
 * it, many at a time: what other programs draw in between would make two machines differ that have the same seed.
 */
const DRAW = `perl -e '
  open my $random, "<", "/dev/urandom";
  open my $draws, ">>", "/run/draws";
  for (;;) {
    for (1 .. 20) {
      open my $name, "<", "/proc/sys/kernel/hostname";
      sysread $name, my $who, 64;
      chomp $who;
      sysread $random, my $bytes, 16;
      syswrite $draws, "$who " . unpack("H*", $bytes) . "\\n";
    }
    select undef, undef, undef, 0.2;
  }'`;

/**
 * Appends records to both disks as fast as it can, each with its number and a sum, on the disk before the next one begins; the number is in
 * memory before it is on any disk.
 */
const WRITE = `perl -e '
  my @files = map { sysopen my $file, $_, 04012101; $file } "/var/records", "/root/records";
  for (my $number = 1;; $number++) {
    open my $memory, ">", "/run/number.new";
    syswrite $memory, $number;
    rename "/run/number.new", "/run/number";
    my $text = "$number " . join("", map { chr(97 + ($number * $_) % 26) } 1 .. 400);
    syswrite $_, "$text " . unpack("%32C*", $text) . "\\n" for @files;
  }'`;

/** Says how many records each disk has when all of them are whole and none is missing, and how far the memory is. */
const READ = `perl -e '
  for my $path ("/var/records", "/root/records") {
    open my $file, "<", $path;
    my $last = 0;
    while (<$file>) {
      my ($text, $number, $sum) = /^((\\d+) \\w+) (\\d+)\\n\\z/ or die "$path is torn after $last: $_";
      die "$path has $number after $last" if $number != $last + 1;
      die "$path has a wrong sum in $number" if $sum != unpack("%32C*", $text);
      $last = $number;
    }
    print "$last ";
  }
  open my $memory, "<", "/run/number";
  print <$memory>;'`;

/** Goes from one processor to the other, and says by how many ns the clock went back at most. */
const CLOCKS = `perl -e '
  my ($last, $back) = (0, 0);
  for my $turn (1 .. 400) {
    syscall(203, 0, 8, pack("Q", 1 << $turn % 2)) >= 0 or die "sched_setaffinity: $!";
    my $time = pack("q2", 0, 0);
    syscall(228, 1, $time);
    my ($seconds, $ns) = unpack("q2", $time);
    my $now = $seconds * 1000000000 + $ns;
    $back = $last - $now if $last - $now > $back;
    $last = $now;
  }
  print $back;'`;

/** What a machine keeps when it boots, one thing a line. */
const KEPT = `
hostname
cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub
sha256sum < /var/lib/systemd/random-seed
cat /sys/class/net/eth0/address
ip -o -4 addr show eth0 | grep -o 'inet [^ ]*'
`;

/** Who a machine is at all. */
const WHO = `${KEPT}
cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid
od -An -N32 -tx1 /dev/urandom
`;

/** Lines of these that say an address. */
const ADDRESSES: ReadonlySet<number> = new Set([4, 5]);

/**
 * What the kernel adds to its clock for the first sequence number of a connection, twice: a sum of both addresses, both ports and a
 * secret that all forks have. Each with how much it may be off: the clock is looked at before and after.
 */
const SEQUENCE = `perl -e '
  my $now = sub { my $time = pack("q2", 0, 0); syscall(228, 0, $time); my ($s, $ns) = unpack("q2", $time); $s * 1000000000 + $ns };
  for (1, 2) {
    my @best;
    for (1 .. 5) {
      socket(my $socket, 2, 1 | 04000, 6) or die "socket: $!";
      setsockopt($socket, 1, 2, pack("i", 1)) or die "SO_REUSEADDR: $!";
      bind($socket, pack("SnC4x8", 2, 40000, 0, 0, 0, 0)) or die "bind: $!";
      my $before = $now->();
      connect($socket, pack("SnC4x8", 2, 80, 192, 0, 2, 1));
      my $after = $now->();
      setsockopt($socket, 6, 19, pack("i", 1)) or die "TCP_REPAIR: $!";
      setsockopt($socket, 6, 20, pack("i", 2)) or die "TCP_REPAIR_QUEUE: $!";
      my $sequence = unpack("I", getsockopt($socket, 6, 21) || die "TCP_QUEUE_SEQ: $!");
      close $socket;
      my ($first, $width) = (($sequence - 1 - ($after >> 6)) & 0xffffffff, ($after - $before >> 6) + 1);
      @best = ($first, $width) if !@best || $width < $best[1];
    }
    print "@best\n";
  }'`;

/** Whether two of these sums may be the same number. */
function mayBeEqual([one, width]: readonly number[], [other, otherWidth]: readonly number[]): boolean {
  const apart = Math.abs((one ?? 0) - (other ?? 0));
  return Math.min(apart, 2 ** 32 - apart) <= (width ?? 0) + (otherWidth ?? 0);
}

describe('forks of one moment', { skip: hostSkip('musl-gcc') }, () => {
  let host: TestHost;
  before(async () => {
    host = await TestHost.create({ lean: true });
    await host.daemon();
    // two processors, whose clocks must not part
    await begin('web', '--vcpus', '2');
  });
  after(() => host?.[Symbol.asyncDispose]());

  const begin = async (name: string, ...options: string[]) => {
    await host.ok('run', name, '--memory', '128M', '--work-disk', '0', ...options);
    await host.guest(
      name,
      `echo 0123456789abcdef0123456789abcdef > /etc/machine-id; mkdir -p /var/lib/systemd; echo 1 > /var/lib/systemd/random-seed; (${DRAW}) > /dev/null 2>&1 & sleep 0.5`,
    );
  };
  const drawsOf = async (name: string) => (await host.guest(name, 'cat /run/draws')).split('\n');
  /** Numbers that a machine drew after it was told who it is. */
  const own = (name: string, draws: readonly string[]) =>
    draws.flatMap((line) => (line.startsWith(`${name} `) ? [line.slice(name.length)] : []));

  /** That it is the same after its next boot, which is its first, and follows a power cut. */
  const keepsItself = async (name: string, who: readonly string[]) => {
    await host.guest(name, 'for i in $(seq 100); do [ -e /run/banger/wake.log ] && exit; sleep 0.1; done; exit 1');
    await host.ok('kill', name);
    await host.ok('start', name, '--until', 'reachable');
    const boot = 'cat /proc/sys/kernel/random/boot_id';
    const lines = (await host.guest(name, `${KEPT}${boot}`)).split('\n');
    assert.deepEqual(lines.slice(0, -1), who.slice(0, lines.length - 1));
    assert.notEqual(lines.at(-1), who[lines.length - 1], 'it has booted');
  };

  it('differ from each other and from their source in all that a machine is told by', LIMIT, async (t) => {
    const known: { who: string[]; draws: string[]; sums: number[][] }[] = [];
    const look = async (name: string) => {
      const who = (await host.guest(name, WHO)).split('\n');
      assert.equal(await host.guest(name, CLOCKS), '0');
      const sums = (await host.guest(name, SEQUENCE)).split('\n').map((line) => line.split(' ').map(Number));
      assert.ok(mayBeEqual(sums[0] ?? [], sums[1] ?? []), `what is compared is the same each time: ${sums.join('; ')}`);
      return { who, draws: await drawsOf(name), sums };
    };
    const drawn = new Set<string>();
    let common = Number.POSITIVE_INFINITY;
    for (let made = 0; made < COUNT; made += AT_ONCE) {
      const names = Array.from({ length: Math.min(AT_ONCE, COUNT - made) }, (_, index) => `fork-${made + index}`);
      await host.ok('fork', 'web', ...names);
      const batch = await Promise.all(names.map(look));
      // numbers up to the moment are the same in all, and none after it
      const [first] = batch;
      const shared = first?.draws.findIndex((draw, at) => batch.some(({ draws }) => draws[at] !== draw)) ?? -1;
      if (batch.length > 1) {
        assert.ok(shared > 0, 'they have a beginning in common');
        common = Math.min(common, shared);
      }
      for (const [index, { draws }] of batch.entries()) {
        const numbers = own(names[index] ?? '', draws);
        assert.ok(numbers.length > 0, 'it draws on');
        for (const number of numbers) assert.ok(!drawn.has(number), 'two drew the same number');
        for (const number of numbers) drawn.add(number);
      }
      known.push(...batch);
      if (made === 0) await keepsItself(names[0] ?? '', batch[0]?.who ?? []);
      await host.ok('rm', '--force', '--now', ...names);
    }
    known.push(await look('web'));
    const differ = (machines: typeof known, but: ReadonlySet<number> = new Set()) => {
      for (const [line, what] of (machines[0]?.who ?? []).entries()) {
        if (but.has(line)) continue;
        const values = machines.map(({ who }) => who[line]);
        assert.equal(new Set(values).size, machines.length, `line ${line}: ${what}`);
      }
    };
    // those of a batch that is gone are free again
    differ(known, ADDRESSES);
    const source = known.slice(-1);
    for (let at = 0; at < COUNT; at += AT_ONCE) {
      const together = [...known.slice(at, Math.min(at + AT_ONCE, COUNT)), ...source];
      differ(together);
      for (const [index, { sums }] of together.entries()) {
        for (const other of together.slice(index + 1)) {
          assert.ok(!mayBeEqual(sums[0] ?? [], other.sums[0] ?? []), 'connections begin with other numbers');
        }
      }
    }
    for (const number of own('web', await drawsOf('web')).slice(common)) {
      assert.ok(!drawn.has(number), 'one drew what its source did');
    }
    t.diagnostic(`${COUNT} forks; at least ${common} numbers were drawn before the moment`);
    assert.equal(await host.guest('web', 'dmesg | grep -ciE "i/o error|ext4-fs error|lockup|rcu.*stall"; true'), '0');
  });

  it('are caught at it when their agent gives them no new seed', LIMIT, async () => {
    const bundle = join(host.home, 'blind');
    await blindBundle(host.bundle, bundle, 'SKIP_RESEED');
    await begin('seedless', '--image', bundle);
    const names = ['alike', 'other'];
    let alike = false;
    // the kernel makes itself a new seed every few seconds, also between the moment and the first number
    for (let tries = 0; !alike && tries < 6; tries++) {
      await host.ok('fork', 'seedless', ...names);
      const [one = [], other = []] = await Promise.all(names.map(async (name) => own(name, await drawsOf(name))));
      alike = one.some((number) => other.includes(number));
      await host.ok('rm', '--force', '--now', ...names);
    }
    assert.ok(alike, 'without the seed they would draw the same numbers: what is asked above could not fail');
    await host.ok('rm', '--force', '--now', 'seedless');
  });

  it('have disks and memory of one moment, in which no record is torn or missing', LIMIT, async (t) => {
    await host.ok('run', 'writer', '--memory', '128M', '--work-disk', '64M');
    const kept = 'head -c 8000000 /dev/urandom > /run/kept; sha256sum /run/kept > /run/kept.sum';
    await host.guest('writer', `${kept}; ${WRITE} > /dev/null 2>&1 & echo $! > /run/writer; sleep 1`);
    // it stands still meanwhile: the disks are read one after the other
    const read = `kill -STOP $(cat /run/writer); ${READ}; kill -CONT $(cat /run/writer)`;
    const numbers = async (name: string) => (await host.guest(name, read)).split(' ').map(Number);
    let before = 0;
    for (let load = 0; load < LOADS; load++) {
      await host.ok('fork', 'writer', 'reader');
      const [root = 0, work = 0, memory = 0] = await numbers('reader');
      assert.ok(root >= before && root >= work && memory >= root, `${before} ${root} ${work} ${memory}`);
      before = work;
      await until('it writes on', async () => ((await numbers('reader'))[0] ?? 0) > memory);
      if (load < LOADS - 1) await host.ok('rm', '--force', '--now', 'reader');
    }
    const [root = 0] = await numbers('writer');
    assert.ok(root > before, 'its source writes on');
    t.diagnostic(`${LOADS} loads, ${before} records`);
  });

  it('go on when their source and all that nobody needs are gone, under another daemon too', LIMIT, async () => {
    await host.ok('suspend', 'web');
    await host.ok('rm', '--force', '--now', 'writer');
    await host.ok('gc', '--disks');
    await host.ok('image', 'prune');
    const before = await host.leftovers({ daemonRuns: true });
    await host.killDaemon();
    await host.daemon();
    assert.deepEqual((await host.leftovers({ daemonRuns: true })).sort(), before.sort());
    assert.ok(before.some((line) => /qemu/.test(line)));
    const number = async () => Number(await host.guest('reader', 'cat /run/number'));
    const first = await number();
    await until('it writes on', async () => (await number()) > first);
    // memory that it did not need until now
    assert.match(await host.guest('reader', 'sha256sum -c /run/kept.sum'), /^\/run\/kept: OK$/);
    assert.equal(
      await host.guest('reader', 'dmesg | grep -ciE "i/o error|ext4-fs error|lockup|rcu.*stall"; true'),
      '0',
    );
    assert.equal((await host.vm('web')).state, 'suspended');
  });

  it('are shut down in good order, also when no SSH connection was ever made', LIMIT, async () => {
    const { directory } = await host.vm('reader');
    await host.guest('reader', 'kill $(cat /run/writer); echo mine > /var/mine');
    await host.ok('stop', 'reader');
    const { stdout } = await runner.run(['debugfs', '-R', 'cat /var/mine', join(directory, 'root.ext4')]);
    assert.equal(stdout, 'mine\n');
  });
});
