/**
 * systemd-resolved. From 258 on a "delegate" file routes a zone to a server. Before, only network links and the
 * one global list have servers; the global list would get all other lookups too, so a link of its own carries
 * the route: a dummy device that a small unit sets up at boot and again whenever systemd-resolved restarts.
 */
import { createHash } from 'node:crypto';
import type { HostResolver } from '../resolver-detect.ts';
import { baseName, MARKER, type Plan, type Recipe, type Route, removals, type Step, zonesOf } from './plan.ts';

/** First version that reads *.dns-delegate files. */
const DELEGATES_SINCE = 258;

/**
 * Address of the dummy link: systemd-resolved ignores links without one. It is of the range nobody routes
 * (RFC 3927), alone (/32), and no packet ever uses it.
 */
const LINK_ADDRESS = '169.254.42.69/32';
const MAX_LINK_NAME = 15;

export const systemdResolved: Recipe = {
  plan(route, host) {
    if ((host.systemdVersion ?? 0) >= DELEGATES_SINCE) return delegatePlan(route);
    return linkPlan(route, host);
  },
  ownedPaths: (route) => Object.values(pathsOf(route)),
  undo(route, host, found) {
    const paths = pathsOf(route);
    const steps: Step[] = [];
    if (found.includes(paths.unit)) {
      // stopping the unit deletes the link, and systemd-resolved forgets its servers with it
      steps.push({ do: 'run', argv: ['systemctl', 'disable', '--now', unitName(route)], optional: true });
    }
    steps.push(...removals(found));
    if (found.includes(paths.unit)) steps.push({ do: 'run', argv: ['systemctl', 'daemon-reload'] });
    steps.push(...reloadLinkManagers(host, found, paths));
    if (found.includes(paths.delegate)) {
      steps.push({ do: 'run', argv: ['systemctl', 'restart', 'systemd-resolved.service'] });
    }
    return steps;
  },
};

function delegatePlan(route: Route): Plan {
  const paths = pathsOf(route);
  const delegate = [MARKER, '[Delegate]', `DNS=${server(route)}`, `Domains=${domains(route).join(' ')}`, ''];
  return {
    summary: `systemd-resolved will ask bangerd for names below ${route.zone}, by a delegate file.`,
    steps: [
      { do: 'write', path: paths.delegate, content: delegate.join('\n') },
      { do: 'write', path: paths.negativeAnchor, content: negativeAnchors(route) },
      { do: 'run', argv: ['systemctl', 'restart', 'systemd-resolved.service'] },
    ],
  };
}

function linkPlan(route: Route, host: HostResolver): Plan {
  const paths = pathsOf(route);
  const link = linkName(route);
  const steps: Step[] = [];
  if (host.networkd) {
    const content = [MARKER, '[Match]', `Name=${link}`, '', '[Link]', 'Unmanaged=yes', ''].join('\n');
    steps.push({ do: 'write', path: paths.networkd, content });
  }
  if (host.networkManager) {
    const content = [MARKER, '[keyfile]', `unmanaged-devices+=interface-name:${link}`, ''].join('\n');
    steps.push({ do: 'write', path: paths.networkManager, content });
  }
  steps.push(...reloadLinkManagers(host, Object.values(paths), paths));
  steps.push(
    { do: 'write', path: paths.unit, content: renderUnit(route) },
    { do: 'run', argv: ['systemctl', 'daemon-reload'] },
    { do: 'run', argv: ['systemctl', 'enable', unitName(route)] },
    // also applies a changed unit when an older one is active
    { do: 'run', argv: ['systemctl', 'restart', unitName(route)] },
  );
  const summary = `systemd-resolved will ask bangerd for names below ${route.zone}, by a network link ${link} of its own.`;
  return { summary, steps };
}

function reloadLinkManagers(host: HostResolver, written: readonly string[], paths: ReturnType<typeof pathsOf>): Step[] {
  const steps: Step[] = [];
  if (host.networkd && written.includes(paths.networkd)) steps.push({ do: 'run', argv: ['networkctl', 'reload'] });
  if (host.networkManager && written.includes(paths.networkManager)) {
    steps.push({ do: 'run', argv: ['nmcli', 'general', 'reload', 'conf'] });
  }
  return steps;
}

/** The unit behind the link; `$` and `%` do not occur in zones, so nothing needs escaping. */
function renderUnit(route: Route): string {
  const link = linkName(route);
  return [
    MARKER,
    '[Unit]',
    `Description=Route for DNS names below ${route.zone} to bangerd`,
    'After=systemd-resolved.service',
    'PartOf=systemd-resolved.service',
    '',
    '[Service]',
    'Type=oneshot',
    'RemainAfterExit=yes',
    // present already when the unit was killed before it could stop
    `ExecStartPre=-ip link add ${link} type dummy`,
    `ExecStart=ip address replace ${LINK_ADDRESS} dev ${link}`,
    `ExecStart=ip link set ${link} up`,
    `ExecStart=resolvectl dns ${link} ${server(route)}`,
    `ExecStart=resolvectl domain ${link} ${domains(route).join(' ')}`,
    `ExecStart=resolvectl default-route ${link} no`,
    // the zone is not signed, and the listener speaks plain DNS on loopback, whatever holds for other links
    `ExecStart=resolvectl dnssec ${link} no`,
    `ExecStart=resolvectl dnsovertls ${link} no`,
    `ExecStart=resolvectl llmnr ${link} no`,
    `ExecStart=resolvectl mdns ${link} no`,
    `ExecStop=-ip link delete ${link}`,
    '',
    '[Install]',
    'WantedBy=multi-user.target systemd-resolved.service',
    '',
  ].join('\n');
}

/** Names DNSSEC validation leaves alone: the root proves that the zone does not exist. */
function negativeAnchors(route: Route): string {
  return [MARKER.replace('#', ';'), ...zonesOf(route), ''].join('\n');
}

/** "~" routes lookups without making the zone a search domain. */
function domains(route: Route): string[] {
  return zonesOf(route).map((zone) => `~${zone}`);
}

function server({ address, port }: Route): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

function unitName(route: Route): string {
  return `${baseName(route)}-dns.service`;
}

function linkName({ zone }: Route): string {
  const plain = `bgdns-${zone}`;
  if (plain.length <= MAX_LINK_NAME) return plain;
  return `bgdns-${createHash('sha256').update(zone).digest('hex').slice(0, 8)}`;
}

function pathsOf(route: Route) {
  return {
    delegate: `/etc/systemd/dns-delegate.d/${baseName(route)}.dns-delegate`,
    negativeAnchor: `/etc/dnssec-trust-anchors.d/${baseName(route)}.negative`,
    unit: `/etc/systemd/system/${unitName(route)}`,
    networkd: `/etc/systemd/network/10-${baseName(route)}.network`,
    networkManager: `/etc/NetworkManager/conf.d/${baseName(route)}.conf`,
  };
}
