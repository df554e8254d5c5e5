/** One chaos run: a banger of its own on a small store of its own, random commands, and a last look at all data. */
import { copyFile, mkdir, mkdtemp, readdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { messageOf } from '../../src/errors.ts';
import type { Argv } from '../../src/system/runner.ts';
import { TestHost } from '../support/host.ts';
import { leanBundle } from '../support/lean-bundle.ts';
import { type Real, runner } from './action.ts';
import { chaosCommands } from './commands.ts';
import { checkAllData } from './data.ts';
import { emptyModel, type Model } from './model.ts';
import { verify } from './observe.ts';

export interface ChaosOptions {
  /** the same seed makes the same commands */
  seed: number;
  /** runs, each on a fresh banger */
  runs: number;
  /** commands per run; those that are not possible when their turn comes are left out */
  commands: number;
  /** `ms` in which a failing sequence is made shorter */
  shrinkMs: number;
  /** where the bundle of these tests is kept */
  bundles: string;
  tell(text: string): void;
}

type Command = fc.AsyncCommand<Model, Real>;

/**
 * @returns how many commands ran
 * @throws Error with the commands that failed, as few as were found, and what was seen
 */
export async function chaos(options: ChaosOptions): Promise<number> {
  const bundle = await leanBundle(process.env.BANGER_TEST_BUNDLE ?? '', options.bundles);
  const lengths = { minLength: options.commands, maxLength: options.commands };
  const sequences = fc.sample(fc.array(fc.oneof(...chaosCommands()), lengths), {
    seed: options.seed,
    numRuns: options.runs,
  });
  let count = 0;
  for (const sequence of sequences) {
    const outcome = await perform(sequence, bundle, options.tell);
    count += outcome.performed.length;
    if (outcome.error === undefined) continue;
    const { performed, error } = await shorten(outcome, bundle, options);
    const list = performed.map((command) => `  ${command}`).join('\n');
    throw new Error(`After these commands:\n${list}\n${messageOf(error)}`, { cause: error });
  }
  return count;
}

interface Outcome {
  /** commands that were possible, the last one is the one that failed */
  performed: Command[];
  error?: unknown;
}

async function perform(sequence: readonly Command[], bundle: string, tell: (text: string) => void): Promise<Outcome> {
  const performed: Command[] = [];
  const noting = sequence.map((command) => ({
    check: (model: Readonly<Model>) => command.check(model),
    async run(model: Model, real: Real) {
      performed.push(command);
      await command.run(model, real);
    },
    toString: () => command.toString(),
  }));
  tell('a new banger');
  try {
    await using host = await createHost(bundle);
    const real: Real = { host, tell };
    const model = emptyModel();
    try {
      await host.daemon();
      await verify(host, model);
      await fc.asyncModelRun(() => ({ model, real }), noting);
      await checkAllData(model, real);
    } catch (error) {
      tell(`what was seen is kept in ${await keepEvidence(host)}`);
      throw error;
    }
    return { performed };
  } catch (error) {
    // what failed first, and what was found when this banger was taken down
    if (!(error instanceof SuppressedError)) return { performed, error };
    const both = [error.suppressed, error.error].map(messageOf).join('\nAnd afterwards:\n');
    return { performed, error: new Error(both, { cause: error }) };
  }
}

/** Puts aside the logs of daemon and VMs and what the host looks like, before all of it is taken down. */
async function keepEvidence(host: TestHost): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'chaos-'));
  const logs = ['state/bangerd.log', 'state/banger.db'].map((path) => join(host.home, path));
  for (const id of await readdir(join(host.home, 'state/store/vms')).catch(() => [])) {
    for (const name of ['console.log', 'vmm.log']) logs.push(join(host.home, 'state/store/vms', id, name));
  }
  for (const path of logs) {
    const name = path.slice(host.home.length + 1).replaceAll('/', '-');
    await copyFile(path, join(directory, name)).catch(() => {}); // not every VM has run
  }
  const views: [string, Argv][] = [
    ['links', ['ip', '-d', 'address', 'show']],
    ['routes', ['ip', 'route', 'show', 'table', 'all']],
    ['neighbours', ['ip', 'neighbour', 'show']],
    ['rules', ['nft', 'list', 'ruleset']],
    ['processes', ['ps', 'axww', '-o', 'pid,ppid,stat,pcpu,etime,args']],
  ];
  for (const [name, argv] of views) await writeFile(join(directory, name), (await runner.run(argv)).stdout);
  return directory;
}

/** Leaves out pieces, half of it at first and single commands in the end, as long as it still fails. */
async function shorten(failed: Outcome, bundle: string, { shrinkMs, tell }: ChaosOptions): Promise<Outcome> {
  const deadline = performance.now() + shrinkMs;
  let best = failed;
  for (let piece = Math.ceil(best.performed.length / 2); piece >= 1; piece = piece === 1 ? 0 : Math.ceil(piece / 2)) {
    for (let at = 0; at < best.performed.length; ) {
      if (performance.now() > deadline) return best;
      tell(`without commands ${at + 1} to ${at + piece} of ${best.performed.length}`);
      const outcome = await perform(best.performed.toSpliced(at, piece), bundle, () => {});
      if (outcome.error === undefined) at += piece;
      else best = outcome;
    }
  }
  return best;
}

/** Its store is a file system of 1 GiB, so that it can be filled. */
async function createHost(bundle: string): Promise<TestHost> {
  const host = await TestHost.create({
    env: { BANGER_BUNDLE_DEFAULT: bundle, BANGER_DNS_ENABLED: 'false', BANGER_LIMITS_BOOT_TIMEOUT: '90s' },
  });
  const image = join(host.home, 'store.img');
  const store = join(host.home, 'state/store');
  await mkdir(store, { recursive: true });
  await runner.run(['truncate', '--size=1G', image]);
  await runner.run(['mkfs.xfs', '-q', image]);
  await runner.run(['mount', '-o', 'loop', image, store]);
  host.beforeLastLook(async () => {
    await runner.run(['umount', store]);
  });
  return host;
}
