import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseApicTimer, timerState, watchTimer } from '../../fcqemu/vmm/timer-watch.ts';

/** What QEMU 7.2 says, with the lines that count. */
function lapic(entry: string, count: number, divisor = 16): string {
  return [
    'dumping local APIC state for CPU 0 ',
    '',
    'LVT0\t 0x00010700 active-hi edge  masked                      ExtINT (vec 0)',
    'LVTTHMR\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)',
    `LVTT\t 0x${entry} active-hi edge  masked         periodic     Fixed  (vec 236)`,
    `Timer\t DCR=0x3 (divide by ${divisor}) initial_count = ${count} current_count = 207592497`,
  ].join('\r\n');
}

const UNUSED = lapic('00010000', 0, 2);
const MEASURING = lapic('000300ec', 268_435_455);
const RIGHT = lapic('000200ec', 249_998);
const TOO_FAST = lapic('000200ec', 12_000);
const TOO_SLOW = lapic('000200ec', 2_500_000);
const ONE_SHOT = lapic('000000ec', 244_312);
const OF_ANOTHER_KERNEL = lapic('000200ef', 3_433_000);

describe('the timer of an emulated guest', () => {
  const stateOf = (text: string) => {
    const timer = parseApicTimer(text);
    return timer && timerState(timer);
  };

  it('is read from what QEMU says of the local APIC', () => {
    assert.deepEqual(parseApicTimer(MEASURING), {
      masked: true,
      mode: 'periodic',
      vector: 0xec,
      divisor: 16,
      initialCount: 268_435_455,
    });
    assert.equal(parseApicTimer('unknown command: info lapic'), undefined);
  });

  it('is right at every rate that Linux ticks at, give or take a fifth', () => {
    for (const rate of [100, 250, 300, 1000]) {
      for (const factor of [0.82, 1, 1.2])
        assert.equal(
          stateOf(lapic('000200ec', Math.round((62_500_000 / rate) * factor))),
          'right',
          `${rate} ${factor}`,
        );
    }
  });

  it('is wrong when it is measured while the host is busy', () => {
    assert.equal(stateOf(TOO_FAST), 'wrong');
    assert.equal(stateOf(TOO_SLOW), 'wrong');
  });

  it('is not judged before and after it ticks', () => {
    assert.equal(stateOf(UNUSED), 'unused');
    assert.equal(stateOf(MEASURING), 'measuring');
    // allowed to interrupt, but not yet told how often
    assert.equal(stateOf(lapic('000200ec', 268_435_455)), 'measuring');
    assert.equal(stateOf(ONE_SHOT), 'beyond');
    assert.equal(stateOf(lapic('000400ec', 0)), 'beyond');
  });
});

describe('a guest with a wrong timer', () => {
  interface Scene {
    /** answers to `info lapic`, the last one for ever; a reset goes on to the next list */
    timers: string[][];
    halted?: boolean;
    diskReads?: number;
    paused?: boolean;
  }

  /** Plays a machine until it is no longer watched. */
  async function watched({ timers, halted = false, diskReads = 0, paused = false }: Scene) {
    let resets = 0;
    let asked = 0;
    const said: string[] = [];
    const vm = {
      pid: process.pid,
      get paused() {
        // a client lets it go on after a while
        return paused && asked++ < 2;
      },
      async execute<T>(command: string, args?: Record<string, unknown>): Promise<T> {
        if (command === 'query-cpus-fast') return [{ 'thread-id': process.pid }] as T;
        if (command === 'query-blockstats') return [{ stats: { rd_operations: diskReads, wr_operations: 0 } }] as T;
        if (args?.['command-line'] === 'info registers') return `CR0=80050033 HLT=${halted ? 1 : 0}` as T;
        const list = timers[resets];
        if (!list) throw new Error('QEMU is gone');
        return (list.length > 1 ? list.shift() : list[0]) as T;
      },
      async reset() {
        resets += 1;
      },
    };
    await watchTimer(vm, { warn: (text) => said.push(text) });
    return { resets, said: said.join('\n') };
  }

  it('is left alone when it is right', async () => {
    assert.deepEqual(await watched({ timers: [[UNUSED, MEASURING, MEASURING, RIGHT]] }), { resets: 0, said: '' });
  });

  it('is started over until it is right', async () => {
    const { resets, said } = await watched({
      timers: [
        [UNUSED, TOO_FAST],
        [UNUSED, MEASURING, TOO_SLOW],
        [UNUSED, RIGHT],
      ],
    });
    assert.equal(resets, 2);
    assert.match(said, /measured its timer wrongly, because the host was busy: it is started over/);
  });

  it('is started over when the kernel has given its timer up, and waits', async () => {
    assert.equal((await watched({ timers: [[MEASURING], [RIGHT]], halted: true })).resets, 1);
  });

  it('is started over when the kernel has given its timer up, and runs on', async () => {
    const spin = setInterval(() => {
      const end = performance.now() + 20;
      while (performance.now() < end);
    }, 21);
    try {
      assert.equal((await watched({ timers: [[MEASURING], [RIGHT]] })).resets, 1);
    } finally {
      clearInterval(spin);
    }
  });

  it('is started over so often, and then left', async () => {
    const { resets, said } = await watched({ timers: Array.from({ length: 9 }, () => [TOO_SLOW]) });
    assert.equal(resets, 5);
    assert.match(said, /it may be slow, or hang\.$/);
  });

  it('is told of but not started over once it has used a disk', async () => {
    const { resets, said } = await watched({ timers: [[TOO_SLOW]], diskReads: 1 });
    assert.equal(resets, 0);
    assert.match(said, /it may be slow, or hang/);
  });

  it('is looked at when it goes on, while a client has paused it', async () => {
    assert.equal((await watched({ timers: [[TOO_SLOW], [RIGHT]], paused: true })).resets, 1);
  });

  it('is left alone when it is another kernel, that ticks as it likes', async () => {
    assert.deepEqual(await watched({ timers: [[OF_ANOTHER_KERNEL]] }), { resets: 0, said: '' });
  });

  it('may end at any time', async () => {
    assert.deepEqual(await watched({ timers: [] }), { resets: 0, said: '' });
  });
});
