/**
 * What is said to the network helper: one JSON value a line, a request and its answer. A request names VMs, never devices,
 * rules or users: those the helper derives itself.
 */
import { z } from 'zod';

/** Bytes of a request: that of a user with as many VMs as the helper lets anybody have is half as long. */
export const MAX_FRAME_BYTES = 256 * 1024;

/** VMs that one request can name. */
const MAX_MEMBERS = 2048;

/** Lowest and highest MTU of Linux devices for IPv4. */
const MTU = z.int().min(68).max(65_535);

const VM = z.string().regex(/^[0-9a-f]{8}$/);
const ADDRESS = z.ipv4();

/** What every request about VMs says: which banger of the user it is. */
const SCOPE = {
  /** 8 hexadecimal digits for a banger with a home of its own, else empty */
  instance: z.string().regex(/^(?:[0-9a-f]{8})?$/),
  /** CIDR */
  pool: z.string().max(18),
};

const MEMBER = z.strictObject({
  vm: VM,
  address: ADDRESS,
  nat: z.boolean(),
  closed: z.boolean().optional(),
});

/** Who is in the rules and what they may reach; the rules themselves are the helper's. */
export const RULE_REQUEST = z.strictObject({
  members: z.array(MEMBER).max(MAX_MEMBERS),
  vmToVm: z.boolean(),
  vmToHost: z.boolean(),
  guestDns: z.boolean(),
  /** UDP port of 127.0.0.1 that the user has open */
  canaryPort: z.int().min(1024).max(65_535).optional(),
});

export const HELPER_REQUEST = z.discriminatedUnion('op', [
  z.strictObject({ op: z.literal('hello') }),
  z.strictObject({ op: z.literal('attach'), ...SCOPE, vm: VM, mtu: MTU, rules: RULE_REQUEST }),
  z.strictObject({ op: z.literal('detach'), ...SCOPE, vm: VM, rules: RULE_REQUEST }),
  z.strictObject({ op: z.literal('rules'), ...SCOPE, rules: RULE_REQUEST }),
  z.strictObject({ op: z.literal('state'), ...SCOPE }),
  z.strictObject({ op: z.literal('set-up'), ...SCOPE, vm: VM, mtu: MTU }),
  z.strictObject({ op: z.literal('pool-route'), ...SCOPE, wanted: z.boolean() }),
  z.strictObject({ op: z.literal('pool-rule'), ...SCOPE, wanted: z.boolean() }),
  z.strictObject({
    op: z.literal('forwarding'),
    ...SCOPE,
    device: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._@-]{0,14}$/),
    value: z.enum(['0', '1', '2']),
  }),
]);

export type HelperRequest = z.infer<typeof HELPER_REQUEST>;
export type RuleRequest = z.infer<typeof RULE_REQUEST>;
export type HelperMember = RuleRequest['members'][number];
export type Scope = Pick<Extract<HelperRequest, { op: 'rules' }>, 'instance' | 'pool'>;

/** Answer to `hello`. */
export interface HelperGreeting {
  version: string;
  /** VMs that a user may have at a time */
  vmLimit: number;
}

export type HelperAnswer =
  | { ok: true; result?: unknown }
  | { ok: false; code: string; message: string; hint?: string | undefined };
