/**
 * A guest that means harm, and beside it another VM and the command line, which answer as before. This is the one place where
 * durations are compared, because it is they that a neighbour takes away. What they are compared with is a guest that computes
 * without a pause: what an emulated processor costs is no hostility. Rounds of all kinds take turns, so that whatever else the
 * machine does meets all of them, and what seems too slow is measured once more before it counts.
 */
import assert from 'node:assert/strict';
import { Resolver } from 'node:dns/promises';
import { once } from 'node:events';
import { readFileSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { VmDetail } from '../../src/api/vm.ts';
import { childrenOf } from '../../src/system/processes.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { createOutsideWorld, type OutsideWorld } from '../support/outside-world.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(300_000) };

/** Where the guest hears what to do. */
const ORDERS_PORT = 7000;

const ROUNDS = 5;

/** How much slower than beside an ordinary neighbour. */
const MOST = 2;

/** What is shorter than this in `ms` is not told apart by people, and by this machine not from one time to the next. */
const FLOOR_MS = 100;

const KIB = 1024;
/** What all rounds of a deed leave behind at least; its orders alone are a few KiB. */
const LEAST_KIB = 20;

/** What the guest does before anything is measured, in `ms`. */
const LEAD_MS = 300;

/** What it does, as test/support/hostile-guest.pl has it; the last two end what the guest is served by. */
const DEEDS = ['console', 'names', 'neighbours', 'connections', 'disks', 'login', 'agent'] as const;
/** What an ordinary guest does that has much to do. */
const ORDINARY = 'busy';

type Deed = (typeof DEEDS)[number] | typeof ORDINARY;

/** Durations in `ms` by what was asked. */
type Round = Map<string, number>;

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

/** What takes more than twice as long, in words. */
function slower(quiet: readonly Round[], hostile: readonly Round[]): string[] {
  return [...(quiet[0]?.keys() ?? [])].flatMap((what) => {
    const [before, now] = [quiet, hostile].map((rounds) => median(rounds.map((round) => round.get(what) ?? 0)));
    if (before === undefined || now === undefined || now <= MOST * Math.max(before, FLOOR_MS)) return [];
    return [`${what}: ${Math.round(before)} ms before, ${Math.round(now)} ms now`];
  });
}

describe('beside a guest that means harm', { skip: hostSkip('debugfs') }, () => {
  let outside: OutsideWorld;
  let host: TestHost;
  let evil: VmDetail;
  /** logins that failed, less those that did not */
  let logins = 0;

  before(async () => {
    outside = await createOutsideWorld();
    host = await TestHost.create({
      lean: true,
      uplink: outside.uplink,
      env: { BANGER_NETWORK_NAMESERVERS: outside.address },
    });
    await host.daemon();
    await Promise.all([host.ok('run', 'evil', '--work-disk', '64M'), host.ok('run', 'good')]);
    evil = await host.vm('evil');
    const { pool } = await host.client.call('status', {});
    const gateway = pool.replace(/\.0\/\d+$/, '.1');
    const program = await readFile(join(import.meta.dirname, '../support/hostile-guest.pl'));
    const copied = await host.run(['exec', 'evil', '--', 'sh', '-c', 'cat > /run/evil.pl'], { input: program });
    assert.equal(copied.status, 0, copied.stderr);
    await host.guest('evil', `(perl /run/evil.pl ${gateway} ${outside.address} > /dev/null 2>&1 < /dev/null &)`);
    await until('the guest takes orders', () =>
      order(ORDINARY).then(
        () => true,
        () => false,
      ),
    );
  });
  after(async () => {
    await host?.[Symbol.asyncDispose]();
    await outside?.[Symbol.asyncDispose]();
  });

  /** Has the guest do something else than it does. */
  async function order(deed: Deed): Promise<void> {
    const socket = createConnection(ORDERS_PORT, evil.address);
    socket.end(`${deed}\n`);
    socket.setTimeout(paced(20_000), () => socket.destroy(new Error(`the guest does not hear: ${deed}`)));
    assert.equal(await text(socket), `${deed}\n`);
  }

  const asked: Record<string, () => Promise<unknown>> = {
    'exec in another VM': () => host.ok('exec', '-n', 'good', '--', 'true'),
    ls: () => host.ok('ls'),
    show: () => host.ok('show', 'good'),
    'a name': () => resolver().resolve4('good.vm'),
  };

  function resolver(): Resolver {
    const found = new Resolver({ timeout: paced(5000), tries: 1 });
    found.setServers([`127.0.0.1:${host.env.BANGER_DNS_PORT}`]);
    return found;
  }

  async function round(deed: Deed): Promise<Round> {
    await order(deed);
    const over = new AbortController();
    const requests = requestsFor(deed, over.signal);
    await sleep(LEAD_MS);
    const times: Round = new Map();
    for (const [what, ask] of Object.entries(asked)) {
      const began = performance.now();
      await ask();
      times.set(what, performance.now() - began);
    }
    over.abort();
    await requests;
    return times;
  }

  /** Has the daemon meet what lies to it: who asks for nothing is told no lie. */
  async function requestsFor(deed: Deed, signal: AbortSignal): Promise<void> {
    const params = { name: 'evil' };
    // however they end
    const ask = async () => {
      if (deed === 'login') {
        const asked = host.client.call('listPorts', { params, signal });
        const outcome = await asked.then(
          () => -1,
          () => 1,
        );
        logins += outcome;
      }
      if (deed !== 'agent') return;
      const stream = await host.client.exec('evil', { argv: ['true'] }, signal).catch(() => undefined);
      stream?.on('error', () => {}).resume();
      if (stream) await once(stream, 'close', { signal }).catch(() => stream.destroy());
    };
    await Promise.all(
      [1, 2, 3].map(async () => {
        while ((deed === 'login' || deed === 'agent') && !signal.aborted) {
          await ask();
          // what is refused at once is not asked for in a loop
          await sleep(LEAD_MS / 3, undefined, { signal }).catch(() => {});
        }
      }),
    );
  }

  /** KiB of what a deed leaves behind on the host: more each time it is done. */
  function traces(deed: Deed): number {
    const { pid, tap, consoleLog } = evil;
    const field = (of: number, name: string) =>
      Number(new RegExp(`^${name}: (\\d+)$`, 'm').exec(readFileSync(`/proc/${of}/io`, 'utf8'))?.[1]);
    switch (deed) {
      case 'login':
        // what is asked over SSH comes to nothing
        return logins * LEAST_KIB;
      case 'console':
        return statSync(consoleLog).size / KIB;
      case 'disks':
        return field(childrenOf(pid ?? 0)[0] ?? 0, 'wchar') / KIB;
      case 'agent':
        return field(pid ?? 0, 'rchar') / KIB;
      default:
        return Number(readFileSync(`/sys/class/net/${tap}/statistics/rx_bytes`, 'utf8')) / KIB;
    }
  }

  /** One that lied is not asked for a minute, in which it can do nothing. */
  async function isShutOut(): Promise<boolean> {
    return (await host.vm('evil')).agent?.state === 'troubled';
  }

  async function measure(t: TestContext, deeds: readonly Deed[]): Promise<Map<Deed, Round[]>> {
    const rounds = new Map<Deed, Round[]>();
    const done = new Map<Deed, number>();
    let wasShutOut = false;
    for (let count = 0; count < ROUNDS; count++) {
      for (const deed of [ORDINARY, ...deeds] as const) {
        const before = traces(deed);
        rounds.set(deed, [...(rounds.get(deed) ?? []), await round(deed)]);
        // a log is cut now and then
        done.set(deed, (done.get(deed) ?? 0) + Math.max(0, traces(deed) - before));
        // for a minute, which may be over when all is done
        if (deed === 'agent' && !wasShutOut) wasShutOut = await isShutOut();
      }
    }
    for (const [deed, all] of rounds) {
      const medians = Object.keys(asked).map(
        (what) => `${what} ${Math.round(median(all.map((one) => one.get(what) ?? 0)))} ms`,
      );
      t.diagnostic(`${deed}: ${medians.join(', ')}; ${Math.round(done.get(deed) ?? 0)} KiB of traces`);
      const isSeen = (done.get(deed) ?? 0) > LEAST_KIB || (deed === 'agent' && wasShutOut);
      if (deed !== ORDINARY) assert.ok(isSeen, `the guest did not do it: ${deed}`);
    }
    return rounds;
  }

  it('another VM and the command line answer within twice their times', LIMIT, async (t) => {
    const rounds = await measure(t, DEEDS);
    const suspects = DEEDS.filter((deed) => slower(rounds.get(ORDINARY) ?? [], rounds.get(deed) ?? []).length > 0);
    const again = suspects.length > 0 ? await measure(t, suspects) : rounds;
    const found = suspects.map((deed) => [deed, slower(again.get(ORDINARY) ?? [], again.get(deed) ?? [])] as const);
    assert.deepEqual(Object.fromEntries(found.filter(([, slow]) => slow.length > 0)), {});
  });

  it('a daemon that is held up would be noticed', LIMIT, async () => {
    const { pid } = await host.client.call('status', {});
    const quiet = [await round(ORDINARY), await round(ORDINARY), await round(ORDINARY)];
    const held: Round[] = [];
    for (const _ of quiet) {
      // as by one parser that takes long
      const holding = (async () => {
        await sleep(LEAD_MS);
        process.kill(pid, 'SIGSTOP');
        await sleep(paced(4 * MOST * FLOOR_MS) + MOST * (quiet[0]?.get('exec in another VM') ?? 0));
        process.kill(pid, 'SIGCONT');
      })();
      held.push(await round(ORDINARY));
      await holding;
    }
    assert.match(slower(quiet, held).join('\n'), /^exec in another VM/);
  });
});
