// The time zone in which the page writes times: the reader's choice, remembered by the browser.

const KEY = "trio_bridge.zone";

const OWN = new Intl.DateTimeFormat().resolvedOptions().timeZone;

/** What can be chosen: its name in IANA's list, and in words. */
export const ZONES = {
  local: { iana: OWN, title: `Local time (${OWN.replaceAll("_", " ")})` },
  utc: { iana: "UTC", title: "UTC" },
  "new-york": { iana: "America/New_York", title: "New York time" },
};

let choice = remembered();
const names = new Map(); // zone → its formatter: making one takes longer than using it

export const chosen = () => choice;
export const iana = () => ZONES[choice].iana;
export const title = () => ZONES[choice].title;

export function choose(zone) {
  choice = zone;
  try {
    localStorage.setItem(KEY, zone);
  } catch {
    // A browser that stores nothing: the choice holds until the page is left.
  }
}

/** "EST", "UTC", "UTC+1": what its clock is called at this second, which changes with summer time. */
export function abbreviation(at) {
  if (!names.has(choice)) {
    names.set(choice, new Intl.DateTimeFormat("en-US", { timeZone: iana(), timeZoneName: "short" }));
  }
  const { value } = names.get(choice).formatToParts(at * 1000).find(({ type }) => type === "timeZoneName");
  return value.replace(/^GMT(?=[+-])/, "UTC").replace("-", "−");
}

function remembered() {
  try {
    const zone = localStorage.getItem(KEY);
    return Object.hasOwn(ZONES, zone) ? zone : "local";
  } catch {
    return "local";
  }
}
