/** The way to the host's network that takes no right of this process: the network helper, asked over its socket. */
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { vmOfTap } from '../core/network-names.ts';
import { BangerError, isErrorCode, messageOf } from '../errors.ts';
import type { HelperAnswer, HelperGreeting, HelperRequest, RuleRequest, Scope } from './helper-protocol.ts';
import type { FirewallRules } from './nftables.ts';
import type { NetworkPort, SeenRules } from './port.ts';

/** The helper gives each of its programs 15 seconds, and an attachment takes several. */
const ANSWER_LIMIT_MS = 60_000;

/** Whether this user may talk to it; it is started by the first who does. */
export async function mayAskHelper(socket: string): Promise<boolean> {
  return (await helperAccess(socket)) === 'allowed';
}

/** Whether there is a socket, and whether this user may use it. */
export async function helperAccess(socket: string): Promise<'allowed' | 'denied' | 'absent'> {
  if (socket === 'never') return 'absent';
  const tried = async (mode: number) =>
    await access(socket, mode).then(
      () => true,
      () => false,
    );
  if (await tried(constants.R_OK | constants.W_OK)) return 'allowed';
  return (await tried(constants.F_OK)) ? 'denied' : 'absent';
}

/** @throws BangerError `host_unprepared` when it does not answer */
export async function greetHelper(socket: string): Promise<HelperGreeting> {
  return (await askHelper(socket, { op: 'hello' })) as HelperGreeting;
}

/** @param scope which banger of this user asks */
export function createHelperPort(socket: string, scope: Scope): NetworkPort {
  const ask = async (request: HelperRequest) => await askHelper(socket, request);
  return {
    async attach(tap, rules) {
      const known = rules instanceof Promise ? await rules : rules;
      await ask({ op: 'attach', ...scope, vm: vmOf(tap.name), mtu: tap.mtu, rules: ruleRequest(known) });
    },
    detach: async (name, rules) =>
      void (await ask({ op: 'detach', ...scope, vm: vmOf(name), rules: ruleRequest(rules) })),
    writeRules: async (rules) => void (await ask({ op: 'rules', ...scope, rules: ruleRequest(rules) })),
    readRules: async () => ((await ask({ op: 'state', ...scope })) ?? undefined) as SeenRules | undefined,
    setUpTap: async ({ name, mtu }) => void (await ask({ op: 'set-up', ...scope, vm: vmOf(name), mtu })),
    addPoolRoute: async (pool) => void (await ask({ op: 'pool-route', ...scope, pool, wanted: true })),
    deletePoolRoute: async (pool) => void (await ask({ op: 'pool-route', ...scope, pool, wanted: false })),
    addPoolRule: async (pool) => void (await ask({ op: 'pool-rule', ...scope, pool, wanted: true })),
    deletePoolRule: async (pool) => void (await ask({ op: 'pool-rule', ...scope, pool, wanted: false })),
    setForwarding: async (device, value) =>
      void (await ask({ op: 'forwarding', ...scope, device, value: value as '0' | '1' | '2' })),
  };
}

/** Asks one way or the other, as each call comes: a helper that is installed meanwhile is used from then on. */
export function chooseWay(first: NetworkPort, other: NetworkPort, mayFirst: () => Promise<boolean>): NetworkPort {
  const way = async () => ((await mayFirst()) ? first : other);
  return {
    attach: async (...args) => (await way()).attach(...args),
    detach: async (...args) => (await way()).detach(...args),
    writeRules: async (...args) => (await way()).writeRules(...args),
    readRules: async (...args) => (await way()).readRules(...args),
    setUpTap: async (...args) => (await way()).setUpTap(...args),
    addPoolRoute: async (...args) => (await way()).addPoolRoute(...args),
    deletePoolRoute: async (...args) => (await way()).deletePoolRoute(...args),
    addPoolRule: async (...args) => (await way()).addPoolRule(...args),
    deletePoolRule: async (...args) => (await way()).deletePoolRule(...args),
    setForwarding: async (...args) => (await way()).setForwarding(...args),
  };
}

function ruleRequest({ members, vmToVm, vmToHost = false, guestDns, canaryPort }: FirewallRules): RuleRequest {
  return {
    members: members.map(({ tap, address, nat, closed }) => ({
      vm: vmOf(tap),
      address,
      nat,
      ...(closed ? { closed } : {}),
    })),
    vmToVm,
    vmToHost,
    guestDns: guestDns !== undefined,
    ...(canaryPort === undefined ? {} : { canaryPort }),
  };
}

function vmOf(tap: string): string {
  const vm = vmOfTap(tap);
  if (vm === undefined) throw new BangerError('internal', `${tap} is the device of no VM.`);
  return vm;
}

/** One request on a connection of its own: a helper that was started anew meanwhile makes no difference. */
async function askHelper(socket: string, request: HelperRequest): Promise<unknown> {
  const answer = await exchange(socket, `${JSON.stringify(request)}\n`);
  if (answer.ok) return answer.result;
  const { code, message, hint } = answer;
  throw new BangerError(isErrorCode(code) ? code : 'internal', message, { hint });
}

function exchange(socket: string, line: string): Promise<HelperAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<HelperAnswer>();
  const connection = createConnection(socket);
  const chunks: Buffer[] = [];
  const fail = (why: string, cause?: unknown) =>
    reject(
      new BangerError('host_unprepared', `The network helper ${why}.`, {
        cause,
        hint: 'See what it says: journalctl -u bangernet   and what this host lacks: banger doctor',
      }),
    );
  connection.setTimeout(ANSWER_LIMIT_MS, () => {
    fail(`did not answer within ${ANSWER_LIMIT_MS / 1000} s`);
    connection.destroy();
  });
  connection.on('connect', () => connection.write(line));
  connection.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    if (!chunk.includes(0x0a)) return;
    connection.destroy();
    try {
      resolve(JSON.parse(Buffer.concat(chunks).toString('utf8')) as HelperAnswer);
    } catch (error) {
      fail('answered something else than JSON', error);
    }
  });
  connection.on('error', (error) => fail(`cannot be reached at ${socket}: ${messageOf(error)}`, error));
  connection.on('close', () => fail('ended before it had answered'));
  return promise;
}
