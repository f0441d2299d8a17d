// Starts the player on the cast that the page names. No inline script, so that the page's policy can forbid it.
const place = document.getElementById("player");
AsciinemaPlayer.create(place.dataset.cast, place, {
  idleTimeLimit: 2,
  preload: true,
  poster: "npt:0:05",
  fit: "width",
  controls: true,
});
