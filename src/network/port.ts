/**
 * What takes a right to change in the host's network, in terms of VMs. Two ways lead there: programs that this process
 * runs, as root or through sudo, and the network helper (helper-client.ts).
 */
import type { Privileged } from '../system/privilege.ts';
import { forwardingSetting, writeSetting } from './forwarding.ts';
import { applyRules, type FirewallRules, isWhole, readTable } from './nftables.ts';
import { addPoolRoute, addPoolRule, deletePoolRoute, deletePoolRule } from './routes.ts';
import { createTap, deleteTap, setUpTap, type Tap } from './tap.ts';

export interface NetworkPort {
  /**
   * Writes the rules and makes the device, which is never up without its entry against spoofing, and lets it forward.
   * @param rules may still be found out while the device is made
   */
  attach(tap: Tap, rules: FirewallRules | Promise<FirewallRules>): Promise<void>;
  /** Removes the device if it is there, then writes the rules. */
  detach(name: string, rules: FirewallRules): Promise<void>;
  writeRules(rules: FirewallRules): Promise<void>;
  /** What the kernel has of the table; undefined when there is none. */
  readRules(rules: FirewallRules): Promise<SeenRules | undefined>;
  /** Gives a device that is there what it needs to carry packets. */
  setUpTap(tap: Tap): Promise<void>;
  addPoolRoute(pool: string): Promise<void>;
  deletePoolRoute(pool: string): Promise<void>;
  addPoolRule(pool: string): Promise<void>;
  deletePoolRule(pool: string): Promise<void>;
  /** Switches the forwarding of a device; one that is gone needs none. */
  setForwarding(device: string, value: string): Promise<void>;
}

export interface SeenRules {
  /** the same as long as nothing in the table changes */
  text: string;
  /** whether it has as many rules and elements as these rules have */
  whole: boolean;
}

export interface LocalPortOptions {
  privileged: Privileged;
  programs: { ip: string; nft: string; sysctl: string };
  /** whether a tap is set up by one program, where that may be told anything */
  atOnce?: boolean;
  /** whether the kernel has IPv6; looked up unless it is known */
  hasIpv6?: boolean;
}

/** What one program gets to change the host's network; under load they take a tenth of a second. */
const CALL_LIMIT_MS = 15_000;

/** Runs ip, nft and sysctl. */
export function createLocalPort({
  privileged: given,
  programs: { ip, nft, sysctl },
  atOnce = false,
  hasIpv6,
}: LocalPortOptions): NetworkPort {
  // each is done in milliseconds; one that hangs holds every start, stop and repair
  const privileged: Privileged = {
    ...given,
    run: (argv, options) => given.run(argv, { timeoutMs: CALL_LIMIT_MS, ...options }),
  };
  return {
    async attach(tap, rules) {
      const guarded = Promise.resolve(rules).then((known) => applyRules(privileged, nft, known));
      await createTap(privileged, ip, tap, { atOnce, guarded, hasIpv6 });
      await writeSetting(privileged, sysctl, forwardingSetting(tap.name), '1');
    },
    async detach(name, rules) {
      await deleteTap(privileged, ip, name);
      await applyRules(privileged, nft, rules);
    },
    writeRules: (rules) => applyRules(privileged, nft, rules),
    async readRules(rules) {
      const text = await readTable(privileged, nft, rules.table);
      return text === undefined ? undefined : { text, whole: isWhole(text, rules) };
    },
    setUpTap: (tap) => setUpTap(privileged, ip, tap),
    addPoolRoute: (pool) => addPoolRoute(privileged, ip, pool),
    deletePoolRoute: (pool) => deletePoolRoute(privileged, ip, pool),
    addPoolRule: (pool) => addPoolRule(privileged, ip, pool),
    deletePoolRule: (pool) => deletePoolRule(privileged, ip, pool),
    setForwarding: (device, value) => writeSetting(privileged, sysctl, forwardingSetting(device), value, 'if-present'),
  };
}
