import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import type { Outcome, ProofVmm } from './outcome.ts';
import { LOST, type Prover, proveAll } from './queue.ts';

const FILES = ['a', 'b', 'c', 'd', 'e'].map((name) => `test/host/${name}.test.ts`);

function outcome(vmm: ProofVmm, file: string): Outcome {
  const test = { file, name: 'works', outcome: 'passed' as const, ms: 1 };
  return {
    vmm,
    acceleration: 'KVM',
    version: `${vmm} 1`,
    kernel: '6',
    pace: 2,
    files: [file],
    tests: [test],
    repeats: [],
    ms: 1,
  };
}

/** Rigs that note what they are given; those in `loses` are lost with a file. */
class Rigs {
  readonly ran = new Map<number, string[]>();
  readonly disposed: number[] = [];
  readonly told: string[] = [];
  made = 0;
  readonly loses: Set<string>;

  constructor(loses: string[] = []) {
    this.loses = new Set(loses);
  }

  start = async (number: number): Promise<Prover> => {
    this.made++;
    return {
      prove: async (vmm, file) => {
        this.ran.set(number, [...(this.ran.get(number) ?? []), `${vmm} ${file}`]);
        await turn();
        if (this.loses.has(file)) throw new Error('Connection closed by peer');
        return outcome(vmm, file);
      },
      [Symbol.asyncDispose]: async () => void this.disposed.push(number),
    };
  };

  async prove(rigs: number, more: { vmms?: ProofVmm[]; files?: string[]; signal?: AbortSignal } = {}) {
    const { vmms = ['fcqemu'], files = FILES, signal = new AbortController().signal } = more;
    return await proveAll({ vmms, files, rigs, start: this.start, tell: (text) => this.told.push(text), signal });
  }
}

describe('files of tests for several rigs', () => {
  it('are each run once, in whichever has nothing to do, and come back in their order', async () => {
    const rigs = new Rigs();
    const [together, ...others] = await rigs.prove(2);
    assert.deepEqual(others, []);
    assert.deepEqual(together?.files, FILES);
    assert.deepEqual(
      together?.tests.map(({ file }) => file),
      FILES,
    );
    assert.equal(together?.version, 'fcqemu 1');
    assert.deepEqual(
      [...rigs.ran.values()].flat().sort(),
      FILES.map((file) => `fcqemu ${file}`),
    );
    assert.equal(rigs.ran.size, 2, 'one rig did it all');
    assert.deepEqual(rigs.disposed.sort(), [1, 2]);
  });

  it('are run with each VMM', async () => {
    const rigs = new Rigs();
    const outcomes = await rigs.prove(3, { vmms: ['fcqemu', 'firecracker'] });
    assert.deepEqual(
      outcomes.map(({ vmm, version, files }) => [vmm, version, files.length]),
      [
        ['fcqemu', 'fcqemu 1', FILES.length],
        ['firecracker', 'firecracker 1', FILES.length],
      ],
    );
  });

  it('need no more rigs than there are files', async () => {
    const rigs = new Rigs();
    await rigs.prove(4, { files: FILES.slice(0, 1) });
    assert.equal(rigs.made, 1);
  });

  it('are run in a new rig after one was lost, whose file has failed', async () => {
    const rigs = new Rigs([FILES[1] ?? '']);
    const [together] = await rigs.prove(1);
    assert.deepEqual(
      together?.tests.map(({ name, outcome: is }) => [name, is]),
      FILES.map((_, n) => (n === 1 ? [LOST, 'failed'] : ['works', 'passed'])),
    );
    assert.match(together?.tests[1]?.why ?? '', /Connection closed/);
    assert.match(rigs.told.join('\n'), /b\.test\.ts: the rig was lost: Connection closed/);
    assert.equal(rigs.made, 2);
    assert.deepEqual(rigs.disposed, [1, 1]);
  });

  it('are run again when the rig was lost by the known fault, at most twice, and each time is told', async () => {
    for (const [times, is] of [
      [2, 'passed'],
      [3, 'failed'],
    ] as const) {
      const rigs = new Rigs();
      let losses = 0;
      const start = async (number: number): Promise<Prover> => {
        const rig = await rigs.start(number);
        const prove = async (vmm: ProofVmm, file: string) => {
          if (file === FILES[1] && losses++ < times)
            throw Object.assign(new Error('lost'), { evidence: `panic ${losses}` });
          return await rig.prove(vmm, file);
        };
        return { prove, [Symbol.asyncDispose]: () => rig[Symbol.asyncDispose]() };
      };
      const { signal } = new AbortController();
      const options = { vmms: ['fcqemu' as const], files: FILES, rigs: 1, start, tell: () => {}, signal };
      const [together] = await proveAll(options);
      assert.deepEqual(together?.files, FILES);
      assert.equal(together?.tests[1]?.outcome, is);
      assert.deepEqual(together?.repeats, [
        { file: FILES[1], evidence: 'panic 1' },
        { file: FILES[1], evidence: 'panic 2' },
      ]);
    }
  });

  it('are run twice more at most, however the known fault was met', async () => {
    const rigs = new Rigs();
    let runs = 0;
    const start = async (number: number): Promise<Prover> => {
      const rig = await rigs.start(number);
      const prove = async (vmm: ProofVmm, file: string) => {
        if (file !== FILES[1]) return await rig.prove(vmm, file);
        runs++;
        // the rig's own kernel first, then a guest each time
        if (runs === 1) throw Object.assign(new Error('lost'), { evidence: 'the rig' });
        const test = { file, name: 'works', outcome: 'failed' as const, ms: 1 };
        return { ...outcome(vmm, file), tests: [test], evidence: `guest ${runs}` };
      };
      return { prove, [Symbol.asyncDispose]: () => rig[Symbol.asyncDispose]() };
    };
    const { signal } = new AbortController();
    const told: string[] = [];
    const options = { vmms: ['fcqemu' as const], files: FILES, rigs: 1, start, signal };
    const [together] = await proveAll({ ...options, tell: (text) => told.push(text) });
    assert.equal(runs, 3);
    assert.deepEqual(together?.files, FILES);
    assert.equal(together?.tests[1]?.outcome, 'failed');
    assert.deepEqual(
      together?.repeats.map(({ evidence }) => evidence),
      ['the rig', 'guest 2'],
    );
    assert.match(told.join('\n'), /b\.test\.ts met the known fault .* is run again:\nguest 2/);
  });

  it('say what the rig was even when the first was lost', async () => {
    const rigs = new Rigs([FILES[0] ?? '']);
    const [together] = await rigs.prove(1);
    assert.equal(together?.version, 'fcqemu 1');
  });

  it('are an error when no rig can be made', async () => {
    const start = async (): Promise<Prover> => Promise.reject(new Error('There is no /dev/kvm.'));
    const { signal } = new AbortController();
    const options = { vmms: ['fcqemu' as const], files: FILES, rigs: 2, start, tell: () => {}, signal };
    await assert.rejects(proveAll(options), /There is no \/dev\/kvm/);
  });

  it('are run by the other rigs when one cannot be made', async () => {
    const rigs = new Rigs();
    const start = async (number: number) =>
      number === 2 ? Promise.reject(new Error('no memory')) : rigs.start(number);
    const { signal } = new AbortController();
    const options = { vmms: ['fcqemu' as const], files: FILES, rigs: 2, start, tell: () => {}, signal };
    const [together] = await proveAll(options);
    assert.deepEqual(together?.files, FILES);
  });

  it('end with what was proven when they are interrupted', async () => {
    const rigs = new Rigs();
    const stop = new AbortController();
    const start = async (number: number): Promise<Prover> => {
      const rig = await rigs.start(number);
      const prove = async (vmm: ProofVmm, file: string) => {
        if (file === FILES[2]) stop.abort();
        stop.signal.throwIfAborted();
        return await rig.prove(vmm, file);
      };
      return { prove, [Symbol.asyncDispose]: () => rig[Symbol.asyncDispose]() };
    };
    const options = { vmms: ['fcqemu' as const], files: FILES, rigs: 1, start, tell: () => {}, signal: stop.signal };
    const [together] = await proveAll(options);
    assert.deepEqual(together?.files, FILES.slice(0, 2));
    assert.deepEqual(rigs.disposed, [1]);
  });
});
