/**
 * Which banger of this host this is. Its nftables table, control groups, addresses and what the network helper keeps of it are
 * told from those of others by that, so it must be the same as long as any of them is there.
 */
import { createHash } from 'node:crypto';
import { realpath, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { tableName } from '../core/network-names.ts';
import { systemCode } from '../errors.ts';
import type { Ledger, ResourceKind } from '../state/ledger.ts';
import type { Settings } from '../state/settings.ts';

export interface Instance {
  /** 8 hexadecimal digits for a banger with a home of its own, empty for the machine's usual one */
  name: string;
  /** `name` as a number; undefined for the machine's usual one */
  number: number | undefined;
  /** nftables table, and control group for all VMs */
  table: string;
}

export interface InstanceChoice {
  /** `BANGER_HOME` as somebody wrote it */
  home: string | undefined;
  uid: number;
  /** state directory, which is there */
  state: string;
  settings: Settings;
  ledger: Pick<Ledger, 'all'>;
}

/** What the state remembers. */
interface Kept {
  name: string;
  /** state directory without links */
  place: string;
  /** its device and inode */
  node: string;
}

const KEY = 'daemon.instance';

/** What is on the host under the name, or together with what is. */
const NAMED: ReadonlySet<ResourceKind> = new Set(['tap', 'pool-route', 'pool-rule', 'cgroup']);

/**
 * The name comes from where the home is, however it is written. One that resources on the host have stays until they are gone,
 * also when the home was moved meanwhile; a copy of a state gets a name of its own.
 */
export async function decideInstance(choice: InstanceChoice): Promise<Instance> {
  const { settings } = choice;
  const text = settings.get(KEY);
  const before = text === undefined ? undefined : (JSON.parse(text) as Kept);
  const here = await placeOf(choice.state);
  const name = (await nameInUse(choice, before, here)) ?? (await nameOfHome(choice.home));
  const now = JSON.stringify({ name, ...here } satisfies Kept);
  if (now !== text) settings.set(KEY, now);
  return {
    name,
    number: name === '' ? undefined : Number.parseInt(name, 16),
    table: tableName(choice.uid, name),
  };
}

/** The name of what is on the host; undefined when there is nothing, or it is not this banger's. */
async function nameInUse(
  { home, ledger }: InstanceChoice,
  before: Kept | undefined,
  here: Omit<Kept, 'name'>,
): Promise<string | undefined> {
  if (!ledger.all().some(({ resource }) => NAMED.has(resource.kind))) return undefined;
  // earlier bangers remembered nothing, and took the home as it was written
  if (before === undefined) return home ? digitsOf(home) : '';
  const isCopy = before.node !== here.node && before.place !== here.place && (await isThere(before.place));
  return isCopy ? undefined : before.name;
}

async function nameOfHome(home: string | undefined): Promise<string> {
  if (!home) return '';
  // dots first, as in all paths that are made from it
  const plain = resolve(home);
  return digitsOf(await realpath(plain).catch(() => plain));
}

function digitsOf(home: string): string {
  return createHash('sha256').update(home).digest('hex').slice(0, 8);
}

async function placeOf(state: string): Promise<Omit<Kept, 'name'>> {
  const { dev, ino } = await stat(state, { bigint: true });
  return { place: await realpath(state), node: `${dev}:${ino}` };
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    // whoever may not look does not know that it is gone
    return systemCode(error) !== 'ENOENT' && systemCode(error) !== 'ENOTDIR';
  }
}
