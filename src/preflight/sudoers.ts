/**
 * The smallest sudoers rules that let a user run banger: exactly the commands of the table, values spelled out. None of them
 * gives root away: each begins with `setpriv`, which is the user again, with one right more, before any other program runs.
 */
import type { Config } from '../config/schema.ts';
import { gatewayOf, parseSubnet } from '../core/addresses.ts';
import {
  lowerTo,
  type Owner,
  type Placeholder,
  PRIVILEGED_COMMANDS,
  type PrivilegedCommand,
  type PrivilegedProgram,
  type Right,
} from '../system/privileged-commands.ts';

export interface SudoersRequest {
  user: string;
  owner: Owner;
  /** absolute path of `setpriv`, as sudo itself finds it */
  lowerer: string;
  /** absolute path of each program, as sudo itself finds it; one that is missing gets no rules */
  programs: Partial<Record<PrivilegedProgram, string>>;
  /** pool of the VMs, CIDR */
  pool: string;
  /** nftables table of this banger */
  table: string;
  /** network devices that may lead outside; only named where sudo knows no regular expressions */
  uplinks: readonly string[];
  run: string;
  store: string;
  cache: string;
  state: string;
  /** sudo 1.9.10 and later match arguments by regular expressions */
  regularExpressions: boolean;
}

/** Whether a sudo of this version (`sudo -V`) matches arguments by regular expressions. */
export function knowsRegularExpressions(versionText: string): boolean {
  const [major = 0, minor = 0, patch = 0] = (/(\d{1,9})\.(\d{1,9})\.(\d{1,9})/.exec(versionText) ?? [])
    .slice(1)
    .map(Number);
  return major > 1 || (major === 1 && (minor > 9 || (minor === 9 && patch >= 10)));
}

/** A program as the configuration calls it, or under the name it always has. */
export function programName(program: PrivilegedProgram, { programs }: Pick<Config, 'programs'>): string {
  return program in programs ? programs[program as keyof Config['programs']] : program;
}

/** What is before the rules that give root away, in the first line of their own. */
export const EQUAL_TO_ROOT = '# EQUAL TO ROOT:';

/** The text of a file for /etc/sudoers.d. */
export function renderSudoers(request: SudoersRequest): string {
  const user = /^[a-z_][a-z0-9_-]*$/.test(request.user) ? request.user : `#${request.owner.uid}`;
  const withKvm = request.owner.kvmGroup !== undefined;
  const forStoreImage = rulesFor(request, user, ['root']);
  return [
    '# What banger runs by sudo for one user, without a password. Written by: banger doctor --sudoers',
    '# setpriv makes each program a process of that user with CAP_NET_ADMIN alone: the network of this host is its to change, with',
    '# "nft -f -" any packet rule of it, but no file and no process of root is in its reach.',
    ...(withKvm
      ? ['# Firecracker gets the group of /dev/kvm; with the user in that group, its rules are not needed.']
      : []),
    ...rulesFor(request, user, withKvm ? ['network', 'kvm'] : ['network']),
    ...(forStoreImage.length > 0
      ? [
          `${EQUAL_TO_ROOT} who may run what follows can become root, because a file of this user is mounted at a path of this user.`,
          '# Only for the store of `banger storage init`; take the "#" away from these lines if that is what you want.',
          ...forStoreImage.map((line) => `#${line}`),
        ]
      : []),
    '',
  ].join('\n');
}

/** Aliases of the commands with these rights by program, and the line that allows them. */
function rulesFor(request: SudoersRequest, user: string, rights: readonly Right[]): string[] {
  const aliases: string[] = [];
  const lines: string[] = [];
  for (const [program, path] of Object.entries(request.programs)) {
    const rules = PRIVILEGED_COMMANDS.filter(
      (command) => command.program === program && rights.includes(command.right),
    ).flatMap((command) => commandPatterns(command, path, request));
    if (rules.length === 0) continue;
    const alias = `BANGER_${request.owner.uid}_${program.toUpperCase()}`;
    aliases.push(alias);
    lines.push(
      `Cmnd_Alias ${alias} = \\`,
      ...rules.map((rule, at) => `  ${rule}${at < rules.length - 1 ? ', \\' : ''}`),
    );
  }
  return aliases.length === 0 ? [] : [...lines, `${user} ALL=(root) NOPASSWD: ${aliases.join(', ')}`];
}

/** The program that sudo starts and all its arguments, in every form they may have. */
function commandPatterns({ right, args }: PrivilegedCommand, path: string, request: SudoersRequest): string[] {
  if (right === 'root') return argumentPatterns('', args, request).map((form) => `${escapeWord(path)} ${form}`);
  const before = `${[...lowerTo(right, request.owner), path].join(' ')} `;
  return argumentPatterns(before, args, request).map((form) => `${escapeWord(request.lowerer)} ${form}`);
}

/** Arguments as sudoers writes them: one regular expression, or every form of them as globs. @param before words that are as they are */
function argumentPatterns(before: string, args: string, request: SudoersRequest): string[] {
  const [first = '', ...rest] = args.split(/\{(\w+)\}/);
  const parts = [before + first, ...rest];
  if (request.regularExpressions) {
    const text = parts.map((part, at) => (at % 2 === 0 ? escapeRegex(part) : regexOf(part as Placeholder, request)));
    return [`^${text.join('')}$`];
  }
  return parts.reduce<string[]>(
    (forms, part, at) => {
      const next = at % 2 === 0 ? [escapeWord(part, ' ')] : globsOf(part as Placeholder, request);
      return forms.flatMap((form) => next.map((text) => form + text));
    },
    [''],
  );
}

const HEX = '[0-9a-f]';
const DIGIT = '[0-9]';

function regexOf(placeholder: Placeholder, request: SudoersRequest): string {
  const any = {
    tap: `bgr-${HEX}{8}`,
    mac: `06:00(:${HEX}{2}){4}`,
    hostMac: `02:00(:${HEX}{2}){4}`,
    mtu: `${DIGIT}{3,5}`,
    uplink: '[A-Za-z0-9][A-Za-z0-9._-]{0,14}',
    flag: '[012]',
    pid: `${DIGIT}{1,7}`,
    vm: `${HEX}{8}`,
    loop: `${DIGIT}{1,4}`,
    address: freeOctets(request.pool)
      .map((octet) => (octet === undefined ? `${DIGIT}{1,3}` : octet))
      .join('\\.'),
  };
  return placeholder in any ? any[placeholder as keyof typeof any] : escapeRegex(fixed(placeholder, request));
}

/** A glob's `*` would match spaces and with them any argument, so numbers are written digit by digit. */
function globsOf(placeholder: Placeholder, request: SudoersRequest): string[] {
  const digits = (from: number, to: number) =>
    Array.from({ length: to - from + 1 }, (_, index) => DIGIT.repeat(from + index));
  switch (placeholder) {
    case 'tap':
      return [`bgr-${HEX.repeat(8)}`];
    case 'vm':
      return [HEX.repeat(8)];
    case 'mac':
      return [`06\\:00${`\\:${HEX}${HEX}`.repeat(4)}`];
    case 'hostMac':
      return [`02\\:00${`\\:${HEX}${HEX}`.repeat(4)}`];
    case 'mtu':
      return digits(3, 5);
    case 'pid':
      return digits(1, 7);
    case 'loop':
      return digits(1, 4);
    case 'flag':
      return ['[012]'];
    case 'uplink':
      return request.uplinks.map((name) => escapeWord(name));
    case 'address':
      return freeOctets(request.pool).reduce<string[]>(
        (forms, octet) => {
          const next = octet === undefined ? digits(1, 3) : [octet];
          return forms.flatMap((form) => next.map((text) => (form === '' ? text : `${form}.${text}`)));
        },
        [''],
      );
    default:
      return [escapeWord(fixed(placeholder, request))];
  }
}

/** Placeholders that have one value on this machine. */
function fixed(placeholder: Placeholder, { pool, owner, table, run, store, cache, state }: SudoersRequest): string {
  const values: Partial<Record<Placeholder, string>> = {
    gateway: gatewayOf(parseSubnet(pool)),
    pool,
    uid: String(owner.uid),
    table,
    run,
    store,
    cache,
    state,
  };
  return values[placeholder] ?? '';
}

/** The octets of an address in the pool: those its prefix decides, and undefined for the others. */
function freeOctets(pool: string): (string | undefined)[] {
  const [address = '', prefix = '32'] = pool.split('/');
  return address.split('.').map((octet, index) => (Number(prefix) >= 8 * (index + 1) ? octet : undefined));
}

function escapeRegex(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replaceAll('#', '\\#');
}

/** sudoers(5): these end a command or match more than themselves; `keep` are left as they are. */
function escapeWord(text: string, keep = ''): string {
  return text.replace(/[\s,:=\\*?[\]!#]/g, (character) => (keep.includes(character) ? character : `\\${character}`));
}
