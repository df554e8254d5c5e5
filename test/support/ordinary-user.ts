/**
 * A user of this host who is not root: made for a test, with copies of the executables and of a lean bundle, and removed with
 * everything it had. What it runs gets nothing of root's environment.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createRunner, type RunResult } from '../../src/system/runner.ts';
import { freePort } from './free-port.ts';
import { bringVerdict, slowGuests } from './host.ts';
import { leanBundle } from './lean-bundle.ts';
import { paced } from './pace.ts';

const DIST = join(import.meta.dirname, '../../dist');
const RULES_DIRECTORY = '/etc/sudoers.d';
const COMMAND_LIMIT_MS = 240_000;
const root = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

export class OrdinaryUser {
  readonly name: string;
  readonly home: string;
  readonly uid: string;
  /** file of the sudoers rules that a test gives this user */
  readonly rulesFile: string;
  readonly #place: string;

  readonly #env: readonly string[];

  private constructor(name: string, place: string, uid: string, env: readonly string[]) {
    this.#env = env;
    this.name = name;
    this.home = join(place, 'home');
    this.uid = uid;
    this.rulesFile = join(RULES_DIRECTORY, name);
    this.#place = place;
  }

  /**
   * @param groups groups of the host the user is in besides its own and that of /dev/kvm
   * @param env variables besides those of a login
   */
  static async create(groups: readonly string[] = [], env: Record<string, string> = {}): Promise<OrdinaryUser> {
    const name = `banger-${randomBytes(3).toString('hex')}`;
    // root's own directories may be closed to others, so the user gets copies of what it needs
    const place = await mkdtemp('/tmp/bu-');
    await chmod(place, 0o755);
    const home = join(place, 'home');
    await mkdir(home);
    await root.run(['install', '-m', '755', join(DIST, 'banger'), place]);
    await root.run(['ln', join(place, 'banger'), join(place, 'fcqemu')]);
    const bundle = await leanBundle(process.env.BANGER_TEST_BUNDLE ?? '', join(import.meta.dirname, '../../.dev'));
    await root.run(['cp', '-a', '--sparse=always', bundle, join(home, 'bundle')]);
    await bringVerdict(join(home, '.cache/banger'));
    const all = [...groups, ...(await kvmGroups())].join(',');
    await root.run(['useradd', '--no-create-home', '--home-dir', home, '--groups', all, name]);
    await root.run(['chown', '-R', name, home]);
    const uid = (await root.run(['id', '-u', name])).stdout.trim();
    const variables = { BANGER_DNS_PORT: String(await freePort()), BANGER_WARM_AUTOMATIC: 'false', ...env };
    return new OrdinaryUser(
      name,
      place,
      uid,
      Object.entries(variables).map(([key, value]) => `${key}=${value}`),
    );
  }

  /** What a login of the user would run; ends with any status. */
  async run(...args: string[]): Promise<RunResult> {
    const env = [
      ...['PATH=/usr/local/bin:/usr/bin:/bin', `HOME=${this.home}`, `BANGER_BUNDLE_DEFAULT=${this.home}/bundle`],
      ...this.#env,
      ...Object.entries(slowGuests()).map(([name, value]) => `${name}=${value}`),
    ];
    const as = ['setpriv', '--reuid', this.name, '--regid', this.name, '--init-groups', '--'] as const;
    const okExits = Array.from({ length: 256 }, (_, status) => status);
    const argv = [...as, 'env', '-i', ...env, join(this.#place, 'banger'), ...args] as const;
    return await root.run(argv, { cwd: '/', timeoutMs: paced(COMMAND_LIMIT_MS), okExits });
  }

  /** Runs a command that must succeed; returns its output. */
  async ok(...args: string[]): Promise<string> {
    const { exitCode, stdout, stderr } = await this.run(...args);
    assert.equal(exitCode, 0, `banger ${args.join(' ')} ended with ${exitCode}:\n${stderr}${stdout}`);
    return stdout.trimEnd();
  }

  /** Gives the user the sudoers rules that doctor prints, and no others; returns them. */
  async allow(): Promise<string> {
    const rules = await this.ok('doctor', '--sudoers');
    await writeFile(this.rulesFile, `${rules}\n`, { mode: 0o440 });
    await root.run(['visudo', '--check', '--file', this.rulesFile]);
    return rules;
  }

  /** Deletes VMs and daemon of the user, and the user. */
  async [Symbol.asyncDispose](): Promise<void> {
    const names = (await this.run('ls', '--names')).stdout.split('\n').filter(Boolean);
    if (names.length > 0) await this.run('rm', '--force', '--now', ...names);
    await this.run('daemon', 'stop');
    await rm(this.rulesFile, { force: true });
    await root.run(['userdel', this.name], { okExits: [0, 6, 8, 12] });
    await rm(this.#place, { recursive: true, force: true });
  }
}

/**
 * The group that may use /dev/kvm, where there is one. Without it a user's guests are emulated, which in a rig, whose processors
 * are emulated themselves, takes longer than any limit.
 */
export async function kvmGroups(): Promise<string[]> {
  const { stdout } = await root.run(['stat', '--format=%a %G', '/dev/kvm'], { okExits: [0, 1] });
  return /^66\d (?!root$|UNKNOWN$)(\S+)$/.exec(stdout.trim())?.slice(1) ?? [];
}
