/**
 * What the helper knows of each user, in a journal of its own that a new helper goes on with: ranges, VMs and names. What
 * exists of it is asked of the kernel, each time.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { messageOf } from '../errors.ts';
import { type HelperMember, RULE_REQUEST, type RuleRequest } from '../network/helper-protocol.ts';
import { writeFileAtomic } from '../system/files.ts';
import type { HelperLog } from './log.ts';

/** One banger of a user, from its first VM to its last. */
export interface Realm {
  instance: string;
  /** CIDR; no other realm overlaps with it */
  pool: string;
  members: HelperMember[];
  /** what its rules are besides its members */
  rules: Omit<RuleRequest, 'members'>;
  /** devices that its rules let nobody but VMs through */
  walls: string[];
}

export interface User {
  uid: number;
  realms: Map<string, Realm>;
  /** VMs this user has had since the host came up, the last ones: nobody else gets their devices' names */
  names: string[];
}

export interface Users {
  /** One that is known, or a new one. */
  get(uid: number): User;
  all(): Iterable<User>;
  /** Writes what is known of a user, before anything of it exists. */
  save(user: User): Promise<void>;
}

/** Names kept for one user. */
const MAX_NAMES = 4096;

export const NO_RULES: Realm['rules'] = { vmToVm: false, vmToHost: false, guestDns: false };

const JOURNAL = z.object({
  names: z.array(z.string().regex(/^[0-9a-f]{8}$/)),
  realms: z.array(
    z.object({
      instance: z.string(),
      pool: z.string(),
      members: RULE_REQUEST.shape.members,
      rules: RULE_REQUEST.omit({ members: true }),
      walls: z.array(z.string()),
    }),
  ),
});

/** Reads every user's journal of a directory; one that cannot be read counts as none. */
export function openUsers(directory: string, log: HelperLog): Users {
  const users = new Map<number, User>();
  for (const name of readdirSync(directory)) {
    const uid = Number(/^(\d{1,10})\.json$/.exec(name)?.[1] ?? 'none');
    if (Number.isNaN(uid)) continue;
    try {
      const { names, realms } = JOURNAL.parse(JSON.parse(readFileSync(join(directory, name), 'utf8')));
      users.set(uid, { uid, names, realms: new Map(realms.map((realm) => [realm.instance, realm])) });
    } catch (error) {
      log(`the journal of user ${uid} is not readable and is begun anew: ${messageOf(error)}`);
    }
  }
  return {
    get(uid) {
      const known = users.get(uid);
      if (known) return known;
      const user: User = { uid, realms: new Map(), names: [] };
      users.set(uid, user);
      return user;
    },
    all: () => users.values(),
    async save(user) {
      user.names.splice(0, Math.max(0, user.names.length - MAX_NAMES));
      const text = JSON.stringify({ names: user.names, realms: [...user.realms.values()] });
      await writeFileAtomic(join(directory, `${user.uid}.json`), text, 0o600);
    },
  };
}
